# make test needs Debian's packages (scripts/setup installs them as root); make e2e installs real n8n releases.
# Caches live in $N8KEEP_CACHE, default ~/.cache/n8keep; "make clean" leaves them alone.

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
E2E := 2.41.1 1.123.81
SOAK := 2.41.1 2.38.7 2.0.3 1.123.81
SERVERS := versitygw fake-gcs-server azurite postgres16 postgres17 postgres18

.PHONY: build demo test e2e soak bench fmt lint setup servers clean

build:
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/n8keep ./cmd/n8keep

demo: build
	bin/n8keep demo

setup:
	scripts/setup

servers: setup
	scripts/install-servers $(SERVERS) >/dev/null

lint:
	scripts/lint

fmt:
	gofmt -w $$(git ls-files -co --exclude-standard '*.go')

test: setup servers lint
	go test -race -gcflags='modernc.org/...=-d=checkptr=0' -timeout 40m ./...

e2e: setup servers build
	for v in $(E2E); do scripts/install-n8n $$v || exit 1; done
	N8KEEP_BIN=$(CURDIR)/bin/n8keep N8KEEP_E2E_VERSIONS="$(E2E)" go test -tags e2e -count=1 -timeout 45m ./e2e/...

# Hours: every long test in its long form, and every n8n release there is a recipe for.
soak: setup servers build
	for v in $(SOAK); do scripts/install-n8n $$v || exit 1; done
	N8KEEP_SOAK=1 go test -count=1 -timeout 3h ./...
	N8KEEP_SOAK=1 N8KEEP_BIN=$(CURDIR)/bin/n8keep N8KEEP_E2E_VERSIONS="$(SOAK)" go test -tags e2e -count=1 -timeout 3h ./e2e/...

bench: setup servers build
	go test -run '^$$' -bench . -benchmem ./...
	scripts/bench
	scripts/bench-postgres

clean:
	rm -rf bin dist
