package archive

import (
	"bytes"
	"testing"
)

// Computed once with openssl by the commands of docs/format.md, which
// TestFormatDocument runs again for another digest.
func TestDigest(t *testing.T) {
	d, err := NewDigester([]byte(goldenKey), goldenSalt())
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, tc := range [][3]string{
		{goldenPlace, goldenRow, goldenPlaintext}, {"a", "bc", "d"}, {"ab", "c", "d"}, {"a", "b", "cd"}, {"", "", ""}, {"", "", "\x00"},
	} {
		sum := d.Sum(tc[0], tc[1], []byte(tc[2]))
		if len(sum) != 64 || seen[sum] || sum != d.Sum(tc[0], tc[1], []byte(tc[2])) {
			t.Errorf("%q: %s", tc, sum)
		}
		seen[sum] = true
	}
	const want = "195e7cc204ea09fab8319d9623b6464b43e4f45a55731a933af7473715c5fc09"
	if got := d.Sum(goldenPlace, goldenRow, []byte(goldenPlaintext)); got != want {
		t.Errorf("got %s", got)
	}
	for _, other := range []struct{ key, salt []byte }{
		{[]byte(goldenKey + "x"), goldenSalt()}, {[]byte(goldenKey), NewSalt()},
	} {
		d, err := NewDigester(other.key, other.salt)
		if err != nil || seen[d.Sum("a", "bc", []byte("d"))] {
			t.Error("another key or salt, the same digest:", err)
		}
	}
}

func TestDigesterRefuses(t *testing.T) {
	for _, tc := range []struct {
		key, salt []byte
		want      string
	}{
		{nil, NewSalt(), "deriving the digest key: the instance key is empty"},
		{[]byte("k"), nil, "deriving the digest key: the salt has 0 bytes, want 32"},
		{[]byte("k"), make([]byte, 33), "deriving the digest key: the salt has 33 bytes, want 32"},
	} {
		if _, err := NewDigester(tc.key, tc.salt); err == nil || err.Error() != tc.want {
			t.Errorf("got %v, want %s", err, tc.want)
		}
	}
	if len(NewSalt()) != 32 || bytes.Equal(NewSalt(), NewSalt()) {
		t.Error("salts")
	}
}
