#!/bin/sh
# Rebuild markdown.js from package-lock.json's exact versions. `build.sh --check` builds into a
# temporary folder and compares instead. Needs npm.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$here/package.json" "$here/package-lock.json" "$here/entry.js" "$work"
cd "$work"
npm ci --silent --no-audit --no-fund --ignore-scripts --fetch-retries=0 --fetch-timeout=30000 \
  || exit 77  # no registry within reach
node node_modules/esbuild/bin/esbuild entry.js --bundle --minify --charset=utf8 --target=es2022 \
  --format=iife --global-name=g4Vendor --legal-comments=none --outfile=bundle.js --log-level=warning
{
  echo "// Built by build.sh; do not edit. Licences: LICENSES.txt."
  cat package.json | sed -n 's/^    "\([a-z-]*\)": "\([0-9.]*\)",\{0,1\}$/\/\/ \1 \2/p'
  cat bundle.js
  echo 'export const renderMarkdown = g4Vendor.renderMarkdown;'
} > markdown.js
{
  for name in dompurify entities linkify-it markdown-it mdurl punycode.js uc.micro; do
    [ -d "node_modules/$name" ] || continue
    echo "==== $name $(node -p "require('./node_modules/$name/package.json').version")"
    cat "node_modules/$name"/LICENSE*
    echo
  done
} > LICENSES.txt
if [ "${1:-}" = "--check" ]; then
  cmp markdown.js "$here/markdown.js"
  cmp LICENSES.txt "$here/LICENSES.txt"
else
  cp markdown.js LICENSES.txt "$here"
fi
