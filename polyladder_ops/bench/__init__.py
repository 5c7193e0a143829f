"""How fast backup, verify and restore are against what a user would take instead, measured side by side on one server.

`measuring` runs the parts one after the other: `ways` (backup and verify), `restores`, `link`, `listing`. Within a part every
way runs once a pair, in turn, so that what else the machine does falls on all of them alike. `outage` measures how long a switch keeps clients out.
"""
