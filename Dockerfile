# fabricd alone: charon runs beside it, with its VICI socket shared (-v /var/run/charon:/var/run/charon).
#
#   docker run --network host --cap-drop ALL --cap-add NET_ADMIN \
#       -v /etc/fabricd:/etc/fabricd:ro -v /var/lib/fabricd:/var/lib/fabricd \
#       -v /run/fabricd:/run/fabricd -v /var/run/charon:/var/run/charon fabricd
#
# NET_ADMIN is for links, routes and forwarding. It runs as root without root's other powers: the
# VICI socket and the node's key are root's. To run it as another user, give that user the key and
# charon's group (`charon.group`), and the capability as an ambient one.

FROM docker.io/library/debian:bookworm-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv
COPY constraints.txt /src/
RUN python3 -m venv /opt/fabricd \
    && awk '/^[a-z]/ { wanted = /^(setuptools|wheel|packaging)==/ } wanted' \
        /src/constraints.txt > /tmp/build.txt \
    && /opt/fabricd/bin/pip install --no-cache-dir --no-deps --require-hashes -r /tmp/build.txt \
    && /opt/fabricd/bin/pip install --no-cache-dir --no-deps --require-hashes \
        --no-build-isolation -r /src/constraints.txt
COPY LICENSE README.md pyproject.toml /src/
COPY fabricd /src/fabricd
RUN /opt/fabricd/bin/pip install --no-cache-dir --no-deps --no-build-isolation /src

FROM docker.io/library/debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-minimal libpython3-stdlib nftables \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/fabricd /opt/fabricd
ENV PATH=/opt/fabricd/bin:$PATH PYTHONUNBUFFERED=1
ENTRYPOINT ["fabricd"]
CMD ["--config", "/etc/fabricd/fabricd.toml"]
