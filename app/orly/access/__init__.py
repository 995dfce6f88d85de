"""Who may do what: levels, modes, lists, and the decisions made from them. Pure; asked at every door."""
