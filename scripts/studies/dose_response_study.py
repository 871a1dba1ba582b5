"""The dose-response study under the name that many scripts know: `ptycho study dose-response`."""

import sys

from ptycho.cli.app import main

if __name__ == "__main__":
    sys.argv[1:1] = ["study", "dose-response"]
    main()
