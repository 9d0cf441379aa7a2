# syntax=docker/dockerfile:1
# Dependencies are built in a layer of their own: a change of the sources does not build them again.
FROM rust:1-bookworm AS build
WORKDIR /build
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
RUN mkdir src && echo 'fn main() {}' > src/main.rs && touch src/lib.rs \
    && cargo build --profile dist --locked --bin lockstep \
    && rm -r src
COPY src src
COPY sql sql
# Cargo goes by the time of change, and copied files keep theirs.
RUN touch src/main.rs src/lib.rs && cargo build --profile dist --locked --bin lockstep

# The C library, the root certificates, and nothing that could be run: no shell, no package manager.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /build/target/dist/lockstep /usr/local/bin/lockstep
# By number, so that Kubernetes sees that it is not root. Nothing is written: the root may be read-only.
USER 65532:65532
EXPOSE 9855
ENV LOCKSTEP_HTTP_LISTEN=0.0.0.0:9855 LOCKSTEP_LOG_FORMAT=json
# Whether the data loop turns; whether Redis is current is for /readyz and the alerts.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 CMD ["/usr/local/bin/lockstep", "health"]
ENTRYPOINT ["/usr/local/bin/lockstep"]
CMD ["run"]
