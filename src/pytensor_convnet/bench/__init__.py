"""The benchmark suite: its cases, an adapter for each implementation, and what is made of their figures.

`cases` and `nets` say what is measured, `peers` who is, `measure` how; `ceilings` tell what the machine could do.
`suite` runs it all and gives `records`, of which `table` and `chart` make something to look at.
"""
