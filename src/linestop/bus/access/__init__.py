"""Who may do what on the bus: credentials, their keys, and the table of rights."""
