package archive_test

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"os"

	"filippo.io/age"

	"github.com/n8keep/n8keep/archive"
)

const golden = "testdata/golden/20260801T020000Z-prod-golden"

// Reading a backup with this package alone. What is read counts once Next
// returned io.EOF, so write to a temporary place until then.
func ExampleReader() {
	text, err := os.ReadFile(golden + ".identity")
	if err != nil {
		log.Fatal(err)
	}
	ids, err := age.ParseIdentities(bytes.NewReader(text))
	if err != nil {
		log.Fatal(err)
	}
	file, err := os.Open(golden + ".tar.zst.age")
	if err != nil {
		log.Fatal(err)
	}
	defer file.Close()
	r, err := archive.NewReader(file, "", ids...)
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close()
	workflows := 0
	for {
		e, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			log.Fatal(err)
		}
		if e.Name == "workflows/w1.json" {
			if _, err := io.Copy(io.Discard, r); err != nil {
				log.Fatal(err)
			}
			workflows++
		}
	}
	m := r.Manifest()
	fmt.Println(m.Instance, m.N8NVersion, m.State, len(m.Entries), "entries,", workflows, "workflow")
	for secret, err := range r.Secrets() {
		if err != nil {
			log.Fatal(err)
		}
		if secret.Problem != "" {
			fmt.Println(secret.Place, secret.Row, secret.Problem)
		}
	}
	// Output:
	// prod 2.41.1 degraded 7 entries, 1 workflow
	// credentials_entity.data eFgH5678 wrong key
}

// A sidecar whose signature is right still has to be from a signer you know.
func ExampleParseSidecar() {
	b, err := os.ReadFile(golden + ".json")
	if err != nil {
		log.Fatal(err)
	}
	s, err := archive.ParseSidecar(b)
	if err != nil {
		log.Fatal(err)
	}
	trusted, err := archive.ParseSigner("ed25519:iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w=")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(s.Signer == trusted, s.Signer.Fingerprint())
	fmt.Println(s.ID, s.Size, s.State, s.SecretsFailed)
	// Output:
	// true n8s1-z6c3xqlyt5xwnocdbqnlmhcb4y6ettaj
	// 20260801T020000Z-prod-golden 3110 degraded 1
}
