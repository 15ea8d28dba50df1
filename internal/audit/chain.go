package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// record is a line without its hash.
type record struct {
	V        int            `json:"v"`
	Seq      int64          `json:"seq"`
	Time     string         `json:"time"`
	Run      string         `json:"run,omitempty"`
	Phase    string         `json:"phase"` // begin, end, note
	Actor    Actor          `json:"actor"`
	SudoUser string         `json:"sudo_user,omitempty"`
	Command  string         `json:"command,omitempty"`
	Instance string         `json:"instance,omitempty"`
	Outcome  string         `json:"outcome,omitempty"` // "ok" or a problem kind
	Detail   map[string]any `json:"detail,omitempty"`
	Prev     string         `json:"prev"`
}

const (
	domain  = "n8keep audit v1\n"
	maxLine = 64 << 10 // with its newline
)

// hashMember is how every line ends: `,"hash":"<64 hex>"}`.
const (
	hashOpen  = `,"hash":"`
	hashClose = `"}`
	hashSize  = len(hashOpen) + 64 + len(hashClose)
)

var noHash = strings.Repeat("0", 64)

// seal returns the line, newline included, and its hash.
func (r record) seal() (line []byte, hash string, err error) {
	b, err := json.Marshal(r)
	if err != nil {
		return nil, "", fmt.Errorf("encoding an audit event: %w", err)
	}
	body := b[:len(b)-1]
	hash = bodyHash(body)
	line = append(body, hashOpen+hash+hashClose+"\n"...)
	if len(line) > maxLine {
		return nil, "", fmt.Errorf("encoding an audit event: %d bytes, more than the %d a line may have", len(line), maxLine)
	}
	return line, hash, nil
}

func bodyHash(body []byte) string {
	h := sha256.New()
	h.Write([]byte(domain))
	h.Write(body)
	return hex.EncodeToString(h.Sum(nil))
}

var (
	errNotALine = errors.New("it is not a line of an audit log")
	errChanged  = errors.New("it was changed: its hash differs")
)

// unseal checks a line on its own; line has no newline.
func unseal(line []byte) (r record, hash string, err error) {
	if len(line) <= hashSize {
		return r, "", errNotALine
	}
	body, tail := line[:len(line)-hashSize], line[len(line)-hashSize:]
	if !bytes.HasPrefix(tail, []byte(hashOpen)) || !bytes.HasSuffix(tail, []byte(hashClose)) {
		return r, "", errNotALine
	}
	hash = string(tail[len(hashOpen) : len(hashOpen)+64])
	if bodyHash(body) != hash {
		return r, "", errChanged
	}
	if err := json.Unmarshal(append(bytes.Clone(body), '}'), &r); err != nil {
		return r, "", errNotALine
	}
	if r.V != 1 {
		return r, "", fmt.Errorf("it has version %d, newer than this n8keep knows", r.V)
	}
	return r, hash, nil
}
