#!/bin/sh
# HAProxy as Ray Serve starts it, but with nothing open that nobody asked for.
#
# Ray 2.60 opens the metrics and the statistics of HAProxy on every address, lets every user of the machine
# command it through its socket, and has no setting for either. Here both stay on this machine and with this
# user. With TAGGER_SERVE_LOOPBACK=1 replicas listen on 127.0.0.1 alone, where they are looked for then,
# although Ray knows their machine by another address.
#
# A request can only be sent again if all of it was here before the first of it was sent: HAProxy waits for the
# body, and no longer than a replica would.
set -eu
config=
for word in "$@"; do
    [ "${before-}" = -f ] && config=$word
    before=$word
done
if [ -n "$config" ]; then
    sed -i \
        -e '/^frontend prometheus/,/^frontend http_frontend/ s/bind :/bind 127.0.0.1:/' \
        -e '/^listen stats/,$ s/bind \*:/bind 127.0.0.1:/' \
        -e '/^ *stats socket / s/ mode 666 / mode 600 /' \
        -e "s/^ *option redispatch 1\$/&\\n    option http-buffer-request\\n    timeout http-request ${TAGGER_SERVE_UPLOAD_S:-20}s/" \
        "$config"
    if [ "${TAGGER_SERVE_LOOPBACK-}" = 1 ]; then
        sed -i -e 's/^\( *server [^ ]* \)[0-9.]*:/\1127.0.0.1:/' "$config"
    fi
fi
exec "${TAGGER_SERVE_HAPROXY:-haproxy}" "$@"
