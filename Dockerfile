# syntax=docker/dockerfile:1
# Dependencies are built in a layer of their own: a change of the sources does not build them again.
FROM rust:1-bookworm AS build
WORKDIR /build
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src tests/integration \
    && echo 'fn main() {}' > src/main.rs && touch src/lib.rs && echo 'fn main() {}' > tests/integration/main.rs \
    && cargo build --profile dist --locked --bin lockstep \
    && rm -r src tests
COPY src src
COPY sql sql
RUN touch src/main.rs src/lib.rs && cargo build --profile dist --locked --bin lockstep

FROM debian:bookworm-slim
COPY --from=build /build/target/dist/lockstep /usr/local/bin/lockstep
# The system's root certificates are asked for only by TLS without a root certificate of its own.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
USER 65532:65532
EXPOSE 9855
ENV LOCKSTEP_HTTP_LISTEN=0.0.0.0:9855 LOCKSTEP_LOG_FORMAT=json
ENTRYPOINT ["/usr/local/bin/lockstep"]
CMD ["run"]
