"""`python -m stream.cli`"""

from stream.cli.entry import main

main()
