# What stands for strfry's image where it cannot be pulled: /app/strfry, on top of an image that is there.
ARG BASE
FROM ${BASE}
USER 0:0
COPY app /app
