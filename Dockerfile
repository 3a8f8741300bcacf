# The image of every process of ours: `docker compose up` starts it as mock exchange, producer and workers.
# Two stages: the first makes a virtual environment, the second has nothing but it.

FROM python:3.13.14-slim-trixie AS build
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 UV_NO_CACHE=1
RUN python -m venv /build && /build/bin/pip install uv==0.13.9 && python -m venv --without-pip /opt/candlewick
COPY pyproject.toml requirements.lock ./
# The lock as constraints gives versions and hashes, without the tools that only developers need.
RUN /build/bin/uv pip install --python /opt/candlewick/bin/python --only-binary :all: --compile-bytecode \
      --requirements pyproject.toml --constraints requirements.lock \
 && /build/bin/uv pip install --python /build/bin/python --constraints requirements.lock hatchling
COPY README.md LICENSE ./
COPY models/ models/
COPY producers/ producers/
COPY tables/ tables/
COPY agents/ agents/
COPY candlewick/ candlewick/
RUN /build/bin/hatchling build --target wheel \
 && /build/bin/uv pip install --python /opt/candlewick/bin/python --no-deps --compile-bytecode dist/*.whl

FROM python:3.13.14-slim-trixie
RUN groupadd --system --gid 10001 candlewick \
 && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin candlewick \
 && install --directory --owner=10001 --group=10001 --mode=0750 /data
COPY --from=build /opt/candlewick /opt/candlewick
ENV PATH=/opt/candlewick/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    CANDLEWICK_DATA_DIR=/data
# All that is written goes here, and scratch files to /tmp: the rest of the file system may be read-only.
VOLUME ["/data"]
WORKDIR /data
USER 10001:10001
EXPOSE 6066
ENTRYPOINT ["candlewick"]
CMD ["--help"]
