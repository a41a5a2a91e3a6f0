# Any CPU: docker build -t bsst . && docker run --rm -v "$PWD:/videos" bsst run /videos/holiday.mp4
# Not built here, for want of Docker; checked by hadolint and tests/test_containers.py.
FROM python:3.13-slim

COPY . /src
RUN pip install --no-cache-dir /src && rm -rf /src && useradd --create-home --uid 1000 bsst

USER 1000
WORKDIR /videos
ENTRYPOINT ["bsst"]
CMD ["--help"]
