#!/bin/sh
# Looks at a running proxy's status page with headless Chromium, at desk and phone width, in light
# and dark, and writes a PNG of each.
#
#   tests/status-page/screenshot.sh http://127.0.0.1:9443/status [DIRECTORY]
#
# Fails if the page logs anything to its console, asks for anything from elsewhere, is wider than
# the screen, or stops changing until it is reloaded.
set -eu
if ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null &&
    ! command -v google-chrome >/dev/null; then
    echo "Chromium is needed:" >&2
    echo "  Debian, Ubuntu: apt-get install chromium    Amazon Linux, Fedora: dnf install chromium" >&2
    exit 1
fi
exec python3 "$(dirname "$0")/browse.py" "$@"
