package n8ncrypt

import (
	"fmt"
	"strings"
	"testing"
)

var benchSizes = []int{100, 4 << 10, 1 << 20}

func benchKeys(b *testing.B) (Keys, DataKey) {
	b.Helper()
	d, err := NewDataKey("p6gKogeT0bxvBwZ8")
	if err != nil {
		b.Fatal(err)
	}
	k := mustKey(b, "n8n-test-key-0123456789abcdef")
	return Keys{Instance: k, Data: func(id string) (DataKey, bool) { return d, id == d.ID }}, d
}

func encryptAs(b *testing.B, format Format, k InstanceKey, d DataKey, plaintext []byte) string {
	b.Helper()
	var v Value
	var s string
	var err error
	switch format {
	case CBC:
		v, err = k.EncryptCBC(plaintext)
		s = v.String()
	case Prefixed:
		v, err = d.Encrypt(plaintext)
		s = v.String()
	case GCM:
		s, err = k.Wrap(plaintext)
	}
	if err != nil {
		b.Fatal(err)
	}
	return s
}

func eachFormat(b *testing.B, run func(b *testing.B, format Format, plaintext []byte)) {
	for _, format := range []Format{CBC, GCM, Prefixed} {
		for _, size := range benchSizes {
			plaintext := []byte(`{"data":"` + strings.Repeat("x", size-11) + `"}`)
			b.Run(fmt.Sprintf("%s/%d", format, size), func(b *testing.B) {
				b.SetBytes(int64(size))
				b.ReportAllocs()
				run(b, format, plaintext)
			})
		}
	}
}

func BenchmarkDecrypt(b *testing.B) {
	keys, d := benchKeys(b)
	eachFormat(b, func(b *testing.B, format Format, plaintext []byte) {
		stored := encryptAs(b, format, keys.Instance, d, plaintext)
		for b.Loop() {
			if _, _, err := Decrypt(keys, stored, ShapeText); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkEncrypt(b *testing.B) {
	keys, d := benchKeys(b)
	eachFormat(b, func(b *testing.B, format Format, plaintext []byte) {
		for b.Loop() {
			encryptAs(b, format, keys.Instance, d, plaintext)
		}
	})
}

func BenchmarkDetect(b *testing.B) {
	keys, d := benchKeys(b)
	eachFormat(b, func(b *testing.B, format Format, plaintext []byte) {
		stored := encryptAs(b, format, keys.Instance, d, plaintext)
		for b.Loop() {
			if Detect(stored) != format {
				b.Fatal("wrong format")
			}
		}
	})
}

func BenchmarkWrongKey(b *testing.B) {
	keys, d := benchKeys(b)
	wrong := mustKey(b, "wrong")
	eachFormat(b, func(b *testing.B, format Format, plaintext []byte) {
		stored := encryptAs(b, format, keys.Instance, d, plaintext)
		keys := Keys{Instance: wrong, Data: func(id string) (DataKey, bool) { return newDataKey(id, wrong.wrapKey()), true }}
		for b.Loop() {
			if _, _, err := Decrypt(keys, stored, ShapeJSONObject); err == nil {
				b.Fatal("a wrong key opened the value")
			}
		}
	})
}

func BenchmarkFingerprint(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		fingerprintOf("n8n-test-key-0123456789abcdef")
	}
}
