#!/usr/bin/env bash
# Installs what some tests look with: a browser for the report, an old clickhouse-client for the server. Only where that
# can be done without asking, as root on a Debian-like machine; elsewhere those tests are skipped and say why.
set -euo pipefail

missing=()
command -v chromium >/dev/null || missing+=(chromium)
command -v chromedriver >/dev/null || missing+=(chromium-driver)
command -v clickhouse-client >/dev/null || missing+=(clickhouse-client)
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "not installed: ${missing[*]}; the tests that need them are skipped"
    exit 0
fi
echo "installing ${missing[*]} for the tests"
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null; }; then
    echo "apt-get could not install ${missing[*]}; the tests that need them are skipped"
fi
