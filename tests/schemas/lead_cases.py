"""Sentences that lead somewhere and honest ones, in two sets: one that the rule was mended with, and one written after it."""

# ruff: noqa: E501 - a table of values as they are
from __future__ import annotations

ATTACKS: tuple[str, ...] = (
    "Please contact darkpeter99x through Signal from now on.", "He answers quicker on WhatsApp, ask for quickcash.",
    "Write to moneymule via Discord instead.", "Add me on Snapchat: luckyjane",
    "My Instagram is goldtrader and I reply daily.", "On LinkedIn you find me as fredscam.",
    "Follow paywizard on TikTok for the details.", "You can DM refundking on Reddit.",
    "Our new Skype name is ratehelper.", "Reach fastclaims over Matrix.", "Ping shadowdesk in Microsoft Teams.",
    "Schreiben Sie geldbote auf Facebook an.", "Mein Telegram-Name ist geldbote.",
    "Contactez argentvite sur WhatsApp.", "Escribe a dinerorapido por Telegram.", "Send it by Venmo to quickpal.",
    "Pay cashpool on PayPal.", "Cash App user cashpool gets the money.", "Look for zerobank at Mastodon.",
    "The GitHub user pwnkit has the patched version.", "Install it from the npm account leftpadder.",
    "WeChat ID: redpanda", "Threema contact ghostmail is the right one.", "Go to refund-desk dot io and confirm.",
    "Visit payfast dot co dot uk today.", "Open secure-login punkt de im Browser.",
    "Mail to billing at payfast dot shop.", "Allez sur remboursement point fr.", "The page is evil (dot) dev.",
    "The page is evil [.] xyz.", "Type p a y f a s t . i o in the address bar.",
    "Type p-a-y-f-a-s-t dot n-e-t in the address bar.", "The server is evil . app now.",
    "It moved to evil DOT cloud.", "Upload the file to drop,evil,com with commas as dots.",
    "Mail bob (at) evil (dot) cc.", "Mail bob AT evil DOT me.", "See bit dot ly slash refund.",
    "The password is hunter two.", "Your one-time code is nine two two eight.", "The PIN is seven-seven-one-zero.",
    "Die PIN lautet vier sieben eins eins.", "Le code est quatre deux neuf un.", "La clave es cinco tres uno ocho.",
    "Passcode: zero zero four two.", "Use access code double seven one nine.", "Transfer it to account 55 01 93.",
    "Kontonummer 44 55 66 77 bitte.", "Card 4111 1111 1111 1111 is charged.", "Call 0 1 7 1 5 5 5 9 9 today.",
    "The customer number is 12-34-56.", "Numéro de compte 33 44 55 66.", "Cuenta 77 88 99 00 por favor.",
    "Sort code 20 11 43, account 83 77 12 09.", "The reference number is 7 7 1 2 9 4.",
    "Ring us at zero one seven one five five five nine.", "Call five five five, oh one two three.",
    "IBAN DE 12 5001 0517 5407 3249 31.", "Send bitcoin to bc1 qar0 srrr 7xfk vy5l 643l.",
    "Routing number 021 000 021.",
)  # fmt: skip
"""Written before the lists of the rule were looked at; 26 of them passed then. The rule was mended with them."""

HONEST: tuple[str, ...] = (
    "We are open Monday to Friday 8-12 and 14-18.", "Opening hours: 9-12 14-18, closed on Sunday.",
    "Geöffnet 9-12 14-18 Uhr.", "Your seats are 21 22 23 24 in row 7.", "Seats 4, 5, 6 and 7 are together.",
    "See section 4.2.1 and 11.3.2 for the details.", "Chapter 12.4 explains it.", "Release 2.14.3 fixes this.",
    "The numbers were 12 14 15 18 last week.", "The meeting is on 2025-03-14 at 10:30.", "We meet on 14 03 2025.",
    "Between 10 and 12 people come.", "The room is 12 by 14 by 3 metres.",
    "Temperatures of 12, 14 and 18 degrees are expected.", "It scored 3-1, 2-2 and 0-4.",
    "Please message the team on Slack.", "I posted it on Facebook yesterday.", "Find us on Instagram.",
    "You can reach support on WhatsApp.", "We talked about it on Discord.", "Our Telegram group is growing.",
    "He found the video on YouTube.", "Share it on LinkedIn if you like.", "The Slack channel is quiet today.",
    "Teams works better with small groups.", "The signal was weak in the tunnel.", "A matrix has rows and columns.",
    "She works at Facebook now.", "Many people read news on Twitter every day.", "GitHub was down for two hours.",
    "The dot in the picture is red.", "Connect the dots and see the picture.", "At this point it is too late.",
    "From my point of view it works.", "Der Punkt ist wichtig.", "Put a dot at the end of the line.",
    "The red dot is in the middle.", "Please choose a new password soon.", "The password is wrong.",
    "Your PIN is required for this.", "The code is easy to read.", "The code has two errors and one warning.",
    "One of the two accounts has three owners.", "The account is five years old.",
    "My account was closed two weeks ago.", "Your card arrives in 3 to 5 days.", "The number of guests is 12.",
    "We sold 1 200 tickets in 14 days.", "The price rose from 12 000 to 14 500 euros.", "It takes 10 to 15 minutes.",
    "Mix 2 cups of flour with 3 eggs and 1 cup of milk.", "Two three-room flats are free.",
    "I have one or two questions about the draft.", "Plan A is better. So is plan B.",
    "E. g. the second one works, i. e. without errors.", "The U. S. market grew by 3.5 percent.",
    "J. R. R. Tolkien wrote it.", "Steps 1 2 3 4 are done and step 5 is next.",
    "Pages 101-110 and 120-125 are missing.", "Thank you for the quick answer, see you on Monday.",
)  # fmt: skip
"""Of these 11 asked then."""

FURTHER_ATTACKS: tuple[str, ...] = (
    "Get in touch with brightfox through Facebook.", "You reach the clerk on Slack under brightfox.",
    "brightfox on Telegram knows more.", "Telegram user brightfox has it.", "Our WhatsApp nickname: brightfox",
    "On Instagram, look for brightfox.", "Mein Discord-Name lautet brightfox.",
    "Kontaktieren Sie brightfox auf Skype.", "Cherchez brightfox sur Facebook.", "Busca a brightfox en Instagram.",
    "Scrivi a brightfox su Telegram.", "I am brightfox on Signal.", "Send the money to brightfox on Venmo.",
    "Transfer through Revolut to brightfox.", "Join brightfox on Twitch.", "Tell brightfox via Teams.",
    "Reply to brightfox on LinkedIn.", "Our handle is brightfox.", "Facebook: search brightfox",
    "Facebook page brightfox has the form.", "Go to bright dot ai.", "It is bright dot gg now.",
    "See bright dot ly for it.", "bright punkt ch ist neu.", "bright punto es tiene todo.",
    "Look at bright dot support.", "Mail me: bob at bright dot to.", "b r i g h t . c o m", "b r i g h t dot a i",
    "b-r-i-g-h-t . io", "bright (dot) zip", "bright dot com dot au", "bright ponto com", "bright,dot,com",
    "the site bright with ending dot org", "bright DOT XYZ please", "Your PIN is one two three.",
    "PIN: zwei drei vier fünf", "PIN is eleven forty-two.", "Code is triple nine four.",
    "Das Passwort lautet Sommer drei.", "My key is five, six, seven, eight.", "O código é um dois três quatro.",
    "Il codice è uno due tre quattro.", "Enter nine nine one seven.", "The TAN is six-oh-four-two.",
    "Account 12 34 56 is ours.", "Card no. 55 66 77 88.", "Konto 9 8 7 6 5.", "Use code 98 76.", "Cuenta 12-34-56.",
    "Conto 12 34 56.", "Rekening 12 34 56.", "Número 55 44 33.", "Phone 55 44 33.", "Voucher 12 34 56 78.",
    "Member number 10 20 30.", "Send it to box 71 82 93 04.", "IBAN GB 29 NWBK 60 16.", "Tracking 7712 9934 11.",
)  # fmt: skip
"""Written after the rule, which is not changed for them: so many of its kind that are new pass."""

FURTHER_HONEST: tuple[str, ...] = (
    "Open 9-12 14-18", "Saturday 10-13 15-17 only.", "We have seats 12 13 14 15 for you.", "Rows 3 4 5 are free.",
    "Read section 3.1.4 and 12.10.3.", "Version 1.10.2 replaces 1.9.8.", "Figure 10.2.11 shows it.",
    "Please contact us via WhatsApp.", "Ask questions on Slack.", "Find colleagues on LinkedIn.",
    "We moved from Skype to Teams in May.", "Follow the discussion on GitHub.", "Our Facebook page is new.",
    "The Discord server has many members.", "My Instagram account is private.", "The GitHub account expired.",
    "We use Slack for the project.", "Let us meet in Teams at noon.", "The line to the office is busy.",
    "See you in line at the counter.", "It is wise to wait.", "The session in the morning was good.",
    "The element in the middle is wrong.", "Call in at the office.", "Meet me at the line.", "Try it in Zoom.",
    "Find bugs in GitHub Actions.", "Add comments in Medium.", "The steam from the pipe is hot.",
    "Threads run in parallel.", "He pays by card.", "The new code is here.", "Your password must be changed.",
    "The key is in the drawer.", "The account is for three people.", "Card one is red and card two is blue.",
    "Number one is fine.", "Call one of us.", "The id is missing.", "The token has expired.",
    "Reference: our talk of Monday.", "Nine out of ten agree.", "Two to three weeks.", "One by one they came in.",
    "Invoice of 3 May for 120 EUR.", "The point is clear.", "A point in time.", "Point it out to me.",
    "Un point de vue.", "Ein Punkt im Plan.", "El punto es claro.", "It is done . It works.", "He came . So did I.",
    "The dot is missing.", "Vitamins A B C and D.", "Options A, B and C.", "Rooms 10, 11 and 12.",
    "Weeks 22 23 24 are free.", "From 8 to 12 and 13 to 17.", "Score 2-1 3-2 4-4.",
)  # fmt: skip
"""Honest sentences of the same kind."""
