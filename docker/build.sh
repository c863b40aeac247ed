#!/bin/sh
# `make image`: builds docker/Dockerfile with the first engine that works, and passes its arguments to it.
# Variables: TARGET (vizsage, unsloth), IMAGE (name:tag), PIP_CONFIG (a pip.conf, as a build secret), ENGINE.
set -eu
cd "$(dirname "$0")/.."

# A docker client may be installed without a daemon: `info` asks the engine itself.
works() { command -v "$1" > /dev/null && "$1" info > /dev/null 2>&1; }

engine=${ENGINE:-}
if [ -z "$engine" ]; then
    for engine in docker podman buildah none; do
        if works "$engine"; then break; fi
    done
fi
if ! works "$engine"; then
    echo "make: an image needs docker, podman or buildah: ${ENGINE:-none of them} is not there, or does not run" >&2
    exit 1
fi

target=${TARGET:-vizsage}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml | head -n 1)
revision=$(git describe --always --dirty --abbrev=40 --exclude '*' 2> /dev/null || echo unknown)
image=${IMAGE:-vizsage:$version}
if [ -z "${IMAGE:-}" ] && [ "$target" != vizsage ]; then image=$image-$target; fi
if [ -n "${PIP_CONFIG:-}" ]; then
    if [ ! -r "$PIP_CONFIG" ]; then
        echo "make: PIP_CONFIG=$PIP_CONFIG: no such file" >&2
        exit 1
    fi
    set -- --secret "id=pip-config,src=$PIP_CONFIG" "$@"
fi

echo "Building $image with $engine: several GB, a few minutes."
DOCKER_BUILDKIT=1 exec "$engine" build --file docker/Dockerfile --target "$target" --tag "$image" \
    --build-arg "VERSION=$version" --build-arg "REVISION=$revision" "$@" .
