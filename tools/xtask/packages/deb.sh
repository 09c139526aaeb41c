#!/bin/sh
# Maintainer script of the kernel's package: what it is called with tells which one it is (deb-postinst(5)).
set -e
script=@SCRIPT@
version=@RELEASE@
image=/boot/vmlinuz-$version
export DEB_MAINT_PARAMS="$*"

hooks() {
  [ ! -d "/etc/kernel/$script.d" ] || run-parts --report --exit-on-error --arg="$version" --arg="$image" "/etc/kernel/$script.d"
}

case "$script $1" in
"postinst configure")
  [ ! -x /sbin/depmod ] || depmod "$version"
  if command -v linux-update-symlinks > /dev/null; then
    linux-update-symlinks "$([ -n "$2" ] && echo upgrade || echo install)" "$version" "$image"
  fi
  hooks
  ;;
"prerm remove")
  if command -v linux-check-removal > /dev/null; then
    linux-check-removal "$version"
  fi
  hooks
  ;;
"postrm remove")
  # What depmod made of the package's files; other packages' modules keep theirs.
  [ -d "/lib/modules/$version/updates" ] || rm -f "/lib/modules/$version"/modules.*
  rmdir "/lib/modules/$version" 2> /dev/null || true
  if command -v linux-update-symlinks > /dev/null; then
    linux-update-symlinks remove "$version" "$image"
  fi
  hooks
  ;;
"postrm purge" | "preinst install" | "preinst upgrade")
  hooks
  ;;
esac
