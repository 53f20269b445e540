#!/usr/bin/env bash
# Installs what some tests look with: a browser for the report, an old clickhouse-client for the server, Prometheus for
# its rules and the dashboard that asks it. Only where that can be done without asking, as root on a Debian-like machine;
# elsewhere those tests are skipped and say why. Prometheus is unpacked into .tools: installed, it would start by itself.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
command -v chromium >/dev/null || missing+=(chromium)
command -v chromedriver >/dev/null || missing+=(chromium-driver)
command -v clickhouse-client >/dev/null || missing+=(clickhouse-client)
unpacked=()
[ -x .tools/usr/bin/promtool ] || { command -v prometheus && command -v promtool; } >/dev/null || unpacked+=(prometheus)
[ ${#missing[@]} -gt 0 ] || [ ${#unpacked[@]} -gt 0 ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "not installed: ${missing[*]} ${unpacked[*]}; the tests that need them are skipped"
    exit 0
fi
echo "installing ${missing[*]} ${unpacked[*]} for the tests"
export DEBIAN_FRONTEND=noninteractive
install() {
    [ ${#missing[@]} -eq 0 ] || apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}
unpack() {
    [ ${#unpacked[@]} -gt 0 ] || return 0
    local folder
    folder=$(mktemp -d)
    (cd "$folder" && apt-get -o APT::Sandbox::User=root download -qq "${unpacked[@]}") && mkdir -p .tools && dpkg-deb -x "$folder"/*.deb .tools
    rm -rf "$folder"
}
if ! { apt-get update -qq && install && unpack; }; then
    echo "apt-get could not install ${missing[*]} ${unpacked[*]}; the tests that need them are skipped"
fi
