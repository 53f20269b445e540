"""`python -m pulsetrain.commands`: the `pulsetrain` command of this very Python, whatever is on the PATH."""

from pulsetrain.commands import main

raise SystemExit(main())
