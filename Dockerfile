# The service alone, with one model in it; neither Keras nor MLflow.
#
#   catdog-search model export catdog --format onnx --to catdog.onnx
#   docker build --build-arg MODEL=catdog.onnx --tag catdog .
#   docker run --rm --read-only --publish 127.0.0.1:8000:8000 catdog

FROM python:3.13-slim AS build
WORKDIR /source
COPY requirements-serve.txt constraints.txt ./
RUN python -m venv --without-pip /venv \
    && pip --python /venv/bin/python install --no-cache-dir --no-compile \
        --constraint constraints.txt --requirement requirements-serve.txt
COPY pyproject.toml README.md LICENSE ./
COPY studies studies
COPY catdog_search catdog_search
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    && pip --python /venv/bin/python install --no-cache-dir --no-deps /wheels/*.whl \
    && /venv/bin/python -m compileall -q /venv

FROM python:3.13-slim
COPY --from=build /venv /venv
ARG MODEL=catdog.onnx
# Whoever it runs as can read it, whoever wrote it.
COPY --chmod=444 ${MODEL} /model/catdog.onnx
ENV PATH=/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s CMD ["python", "-c", \
    "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=2)"]
# In a container, loopback is the container's own: --publish says who comes in. CATDOG_TOKEN asks
# for a token.
ENTRYPOINT ["catdog-search", "serve", "/model/catdog.onnx", "--host", "0.0.0.0"]
