#!/bin/sh
# docker/prebuild.sh PREFIX: compiles what triton would compile at run time, for docker/prebuilt-cc. Needs gcc.
#
# Triton needs one C module, cuda_utils, before its first kernel, from a source in its wheel. That source is the same on
# every machine, so that one compilation suffices: with CC=PREFIX/bin/prebuilt-cc, triton needs no compiler.
set -eu
prefix=$1
backend=$(python -c 'import triton.backends.nvidia as backend; print(backend.__path__[0])')
headers=$(python -c 'import sysconfig; print(sysconfig.get_path("include"))')
source=$backend/driver.c
store=$prefix/share/prebuilt-cc
scratch=$(mktemp -d)
trap 'rm -r "$scratch"' EXIT
mkdir -p "$prefix/bin" "$store"

# The real libcuda is part of the driver on the machine with the GPU. The linker records the name of a library only if it
# defines a function that the module uses.
grep -oE '\bcu[A-Z][A-Za-z0-9_]+\(' "$source" | sort -u | sed 's/(.*/(void) {}/; s/^/void /' |
    gcc -shared -nostdlib -Wl,-soname,libcuda.so.1 -o "$scratch/libcuda.so.1" -xc -
# The flags of triton/runtime/build.py.
gcc "$source" -O3 -shared -fPIC -Wno-psabi -o "$store/cuda_utils.so" -l:libcuda.so.1 \
    "-L$backend/lib" "-L$scratch" "-I$backend/include" "-I$headers"
if ! readelf -d "$store/cuda_utils.so" | grep -q '\[libcuda.so.1\]'; then
    echo "prebuild: the linker dropped libcuda.so.1 as unneeded; the module would not find it at run time" >&2
    exit 1
fi
sha256sum < "$source" | cut -d ' ' -f 1 > "$store/cuda_utils.sha256"
install -m 755 "$(dirname "$0")/prebuilt-cc" "$prefix/bin/prebuilt-cc"
