#!/usr/bin/env bash
# Installs what the builds and tests need beyond Node on Debian bookworm: the software Vulkan driver lavapipe (from
# backports: the release's own Mesa is too old for Dawn), the Vulkan loader, Chromium, clang/lld 19 and Emscripten.
# Idempotent; needs root. Used by CI and by developers: `sudo .ci/setup.sh`.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive

release=bookworm
sources=/etc/apt/sources.list.d/debian.sources
classic=/etc/apt/sources.list
apt=(apt-get -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 -qq)

say() { printf '%s\n' "$*" >&2; }

# apt's list lock, unlike dpkg's, has no waiting option: try again for a while.
update() {
  local try
  for try in $(seq 30); do
    if "${apt[@]}" update; then return; fi
    say "apt-get update failed (try $try), again in 5 s"
    sleep 5
  done
  say 'apt-get update keeps failing: see the message above (network, or another apt holding its lock)'
  return 1
}

has() { dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed; }

# The backports source is the existing Debian source with another suite, so it uses whatever mirror is configured.
add_backports() {
  if grep -qsr "$release-backports" /etc/apt/sources.list /etc/apt/sources.list.d; then return; fi
  if [ -f "$sources" ]; then
    awk -v release="$release" 'BEGIN { RS = ""; ORS = "\n\n" } $0 ~ "Suites:[^\n]* ?" release "( |\n|$)" { print; exit }' \
      "$sources" | sed -E "s/^Suites:.*/Suites: $release-backports/" >/etc/apt/sources.list.d/backports.sources
    grep -q '^URIs:' /etc/apt/sources.list.d/backports.sources
  elif [ -f "$classic" ]; then
    sed -nE "s/^(deb .*[[:space:]])$release([[:space:]].*)$/\1$release-backports\2/p" "$classic" |
      head -n 1 >/etc/apt/sources.list.d/backports.list
    grep -q '^deb ' /etc/apt/sources.list.d/backports.list
  else
    say "no Debian source in $sources or $classic to derive $release-backports from"
    return 1
  fi
}

if ! grep -qs "VERSION_CODENAME=$release" /etc/os-release; then
  say "this script is for Debian $release; elsewhere install Mesa >= 24 (lavapipe), Chromium, clang 19, lld 19, Emscripten"
  exit 1
fi

mesa=$(dpkg-query -W -f='${Version}' mesa-vulkan-drivers 2>/dev/null || echo 0)
packages=()
for name in libvulkan1 chromium clang-19 lld-19; do has "$name" || packages+=("$name"); done
command -v emcc >/dev/null || packages+=(emscripten)
stale_mesa=0
dpkg --compare-versions "$mesa" ge 24 || stale_mesa=1

if [ ${#packages[@]} -gt 0 ] || [ "$stale_mesa" = 1 ]; then
  add_backports
  update
fi
if [ "$stale_mesa" = 1 ]; then
  "${apt[@]}" install -y --no-install-recommends -t "$release-backports" mesa-vulkan-drivers
fi
if [ ${#packages[@]} -gt 0 ]; then
  "${apt[@]}" install -y --no-install-recommends "${packages[@]}"
fi
say "ready: mesa-vulkan-drivers $(dpkg-query -W -f='${Version}' mesa-vulkan-drivers), $(clang-19 --version | head -n 1)"
