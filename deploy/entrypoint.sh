#!/bin/sh
# Put the kernels compiled at build time where they may be written, then become `recs`: it is process 1 and gets
# the signals itself.
set -eu
if [ -d /opt/kernels ] && [ ! -d "$NUMBA_CACHE_DIR" ]; then
  cp -r --preserve=timestamps /opt/kernels "$NUMBA_CACHE_DIR"
fi
exec recs "$@"
