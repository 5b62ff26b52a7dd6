# A finished run behind HTTP, on the CPU. The run is mounted, not copied:
#   docker build -t mixfit .
#   docker run --read-only --tmpfs /tmp -p 127.0.0.1:8000:8000 -e MIXFIT_TOKEN -v "$PWD/runs/vases-price-001:/run/model:ro" mixfit
FROM python:3.12-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
# libgomp1: LightGBM's wheel needs OpenMP of the system. Its version is that of the base image.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 mixfit
COPY --from=build /wheels /wheels
# The CPU build of PyTorch has no CUDA libraries, which are several gigabytes. The wheel says which versions it needs.
# hadolint ignore=DL3013
RUN python -m pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu torch torchvision \
    && wheel="$(ls /wheels/mixfit-*.whl)" \
    && python -m pip install --no-cache-dir "${wheel}[serve]" \
    && rm -rf /wheels
USER 10001
ENV PYTHONUNBUFFERED=1 MPLCONFIGDIR=/tmp MIXFIT_CACHE=/tmp/mixfit-cache
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
# Everybody who reaches the port could use the model, so MIXFIT_TOKEN must be set.
ENTRYPOINT ["mixfit", "serve", "/run/model", "--host", "0.0.0.0", "--port", "8000"]
