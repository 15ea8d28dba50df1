package n8ncrypt_test

import (
	"errors"
	"fmt"
	"log"

	"github.com/n8keep/n8keep/n8ncrypt"
)

// Opening credentials_entity.data by hand, with nothing but the value and the
// key from ~/.n8n/config.
func ExampleInstanceKey_DecryptCBC() {
	key, err := n8ncrypt.NewInstanceKey("n8n-test-key-0123456789abcdef")
	if err != nil {
		log.Fatal(err)
	}
	value, err := n8ncrypt.Parse("U2FsdGVkX18BAgMEBQYHCDbcm9YRK+oY9J3mYohVtRStCPaXwnR4pOofgnD1Hw0hAxnJoGtKq+lO2UkF2+PLFQ==")
	if err != nil {
		log.Fatal(err)
	}
	plaintext, err := key.DecryptCBC(value, n8ncrypt.ShapeJSONObject)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", plaintext)
	// Output: {"name":"X","value":"s3cret-ü"}
}

// From n8n 2.18 a value may name a data key, which lies in deployment_key
// wrapped by the instance key. Both rows are needed, and the key.
func ExampleDecrypt() {
	const (
		credential = "p6gKogeT0bxvBwZ8:AQABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4fyhJ8eZ/WuJ60f+1njZgBQjG2QvZSlyb4nZGAEraRa1u+Qe0cNhWeV9FQ2NuadUuE"
		wrappedKey = "AQABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4flP1zXc5mMpnrrH5/WUZ3+id/zDIrTgPgajWUgsqIytfcCzrau4bN6YCXIv+e5R4NwM3pHtyTISEkdIn3F9kZIQWHgC0afE7cNHDksTj7Ezk="
	)
	instance, err := n8ncrypt.NewInstanceKey("n8n-test-key-0123456789abcdef")
	if err != nil {
		log.Fatal(err)
	}
	data, _, err := n8ncrypt.UnwrapDataKey(instance, "p6gKogeT0bxvBwZ8", wrappedKey)
	if err != nil {
		log.Fatal(err)
	}
	keys := n8ncrypt.Keys{
		Instance: instance,
		Data:     func(id string) (n8ncrypt.DataKey, bool) { return data, id == data.ID },
	}
	plaintext, opened, err := n8ncrypt.Decrypt(keys, credential, n8ncrypt.ShapeJSONObject)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n%s\n", opened, plaintext)
	// Output:
	// data key "p6gKogeT0bxvBwZ8"
	// {"name":"X","value":"s3cret-ü"}
}

// A wrong key is told apart from text that was never encrypted.
func ExampleDecrypt_wrongKey() {
	wrong, err := n8ncrypt.NewInstanceKey("some other key")
	if err != nil {
		log.Fatal(err)
	}
	for _, stored := range []string{
		"U2FsdGVkX18BAgMEBQYHCDbcm9YRK+oY9J3mYohVtRStCPaXwnR4pOofgnD1Hw0hAxnJoGtKq+lO2UkF2+PLFQ==",
		"plain text",
	} {
		_, _, err := n8ncrypt.Decrypt(n8ncrypt.Keys{Instance: wrong}, stored, n8ncrypt.ShapeJSONObject)
		fmt.Println(errors.Is(err, n8ncrypt.ErrWrongKey), err)
	}
	// Output:
	// true wrong key or damaged value
	// false not n8n ciphertext
}

// The fingerprint names a key without giving it away.
func ExampleInstanceKey_Fingerprint() {
	key, err := n8ncrypt.NewInstanceKey("n8n-test-key-0123456789abcdef")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(key)
	fmt.Println(key.Fingerprint())
	// Output:
	// n8ncrypt.InstanceKey(redacted)
	// n8k1-gmylpmo2kaodj5fn
}
