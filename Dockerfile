# linestop in a container: every role, the set-up and the command line are one image.
#
# Without a network: put the wheels of requirements.lock and deploy/requirements-build.lock into deploy/wheels
# and build with --build-arg PIP_NO_INDEX=1 --build-arg PIP_FIND_LINKS=/wheels (docs/docker.md).
# RUN is in the form that needs no shell, so that a base image without one works too.

ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
ARG PIP_NO_INDEX=""
ARG PIP_FIND_LINKS=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
COPY deploy/wheels/ /wheels/
COPY requirements.lock deploy/requirements-build.lock ./
RUN ["python", "-m", "venv", "--without-pip", "/opt/linestop"]
RUN ["python", "-m", "pip", "--python", "/opt/linestop/bin/python", "install", "--require-hashes", "-r", "requirements.lock"]
RUN ["python", "-m", "pip", "install", "--require-hashes", "-r", "requirements-build.lock"]
COPY pyproject.toml README.md LICENSE ./
COPY src/ src/
RUN ["python", "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist", "."]
RUN ["python", "-m", "pip", "--python", "/opt/linestop/bin/python", "install", "--no-deps", "--no-index", "--find-links", "dist", "linestop"]
# What a volume is mounted on. A new volume takes over the owner of the folder it covers.
COPY deploy/folders.py ./
RUN ["python", "folders.py", "/folders"]

FROM ${PYTHON_IMAGE}
COPY --from=build /opt/linestop/ /opt/linestop/
COPY --from=build --chown=10001:10001 /folders/ /
COPY deploy/health.py /opt/linestop/
ENV PATH=/opt/linestop/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/state \
    LINESTOP_DIR=/state \
    LINESTOP_PROJECT=/project \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /project
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 CMD ["python", "-I", "-S", "/opt/linestop/health.py"]
ENTRYPOINT ["linestop"]
CMD ["--help"]
