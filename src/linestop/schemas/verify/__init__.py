"""A checker that sees only the log (P7).

``check_log.verify`` reports one run as authentic up to event n, as consistent, or as broken at n, with a sentence for
each problem. It trusts no writer and no header: it computes the chain itself, and checks the promises against the
events, not against the state that the fold derives from them.

- ``check_log``: the check of a whole log, event by event.
- ``chain_links``: the chain, from subjects and payloads alone.
- ``checker_state``: the starts, holds, costs and passed calls, added up apart from the fold.
- ``opening``, ``call_verdicts``, ``argument_origins``, ``approvals``, ``effect_starts``, ``money``,
  ``event_limits``, ``ending``: the rules, each with one sentence for a violation.
- ``signatures``: whether people signed the decisions in the log.
- ``checkpoint_signature``: signatures that vouch for a run up to an event.

An event that every reader ignores changes nothing. But an append names the head, so an honest role never appends an
event of another role, or one that does not fit the run at that point: such an event is evidence of a stolen
credential, and breaks the log. Two kinds are only shown (``ignored``): a stop that came too late, which every role may
append, and an event of a later version, with the events after it that do not fit because of it.
A log alone cannot show that its end was cut off or that the whole log was rewritten. Checkpoints show that.
"""
