# fabricd alone: charon runs beside it (contrib/strongswan) and shares its VICI socket in
# /var/run/charon. contrib/compose.yaml runs both; docs/install.md says what the node has to have.
#
#   docker run --network host --cap-drop ALL --cap-add NET_ADMIN \
#       -v /etc/fabricd:/etc/fabricd:ro -v fabricd-state:/var/lib/fabricd \
#       -v charon:/var/run/charon fabricd

FROM docker.io/library/debian:bookworm-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv
WORKDIR /src
COPY LICENSE README.md constraints.txt pyproject.toml ./
COPY contrib contrib
COPY systemd systemd
COPY fabricd fabricd
RUN DESTDIR=/image contrib/install.sh install

FROM docker.io/library/debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends libcap2-bin libpython3-stdlib nftables \
        python3-minimal \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
    && groupadd --gid 9815 fabricd \
    && useradd --uid 9815 --gid 9815 --no-create-home --home-dir / --shell /usr/sbin/nologin fabricd \
    && install -d -o fabricd -g fabricd -m 0700 /var/lib/fabricd /run/fabricd
COPY --from=build /image/opt/fabricd /opt/fabricd
# Engines give a user other than root no ambient capabilities, so the files have it: an interpreter
# of fabricd's own, and nft, each for fabricd's group only.
RUN cp --remove-destination "$(readlink -f /usr/bin/python3)" /opt/fabricd/bin/python3 \
    && chgrp fabricd /opt/fabricd/bin/python3 /usr/sbin/nft \
    && chmod 0750 /opt/fabricd/bin/python3 /usr/sbin/nft \
    && setcap cap_net_admin=ep /opt/fabricd/bin/python3 \
    && setcap cap_net_admin=ep /usr/sbin/nft
ENV PATH=/opt/fabricd/bin:$PATH PYTHONUNBUFFERED=1
# By number, so that Kubernetes can see that it is not root.
USER 9815:9815
VOLUME /var/lib/fabricd
HEALTHCHECK --interval=30s --timeout=20s --start-period=30s CMD ["fabricctl", "status"]
ENTRYPOINT ["fabricd"]
CMD ["--config", "/etc/fabricd/fabricd.toml"]
