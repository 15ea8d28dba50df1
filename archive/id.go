package archive

import (
	"crypto/rand"
	"encoding/base32"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// ID names an archive: time, instance and six random characters, as in
// "20260801T020000Z-prod-k3x7qa". IDs of one instance sort by time.
type ID string

// ObjectKind says which of an archive's two objects a name belongs to.
type ObjectKind int

// The kinds of object that a target holds.
const (
	ArchiveObject ObjectKind = iota + 1 // ID.tar.zst.age
	SidecarObject                       // ID.json
)

const (
	idTimeLayout  = "20060102T150405Z"
	archiveSuffix = ".tar.zst.age"
	sidecarSuffix = ".json"
)

var (
	instancePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{0,62}$`)
	idPattern       = regexp.MustCompile(`^([0-9]{8}T[0-9]{6}Z)-(.+)-([a-z2-7]{6})$`)
)

// CheckInstanceName accepts 1 to 63 characters of a-z, 0-9, dot and hyphen that
// begin with a letter or digit.
func CheckInstanceName(s string) error {
	if !instancePattern.MatchString(s) {
		return fmt.Errorf("instance name %q: want 1 to 63 of a-z, 0-9, dot and hyphen, beginning with a letter or digit", s)
	}
	return nil
}

// NewID returns a fresh ID for an archive made at t, to the second. The
// instance must pass [CheckInstanceName].
func NewID(t time.Time, instance string) ID {
	var b [5]byte
	rand.Read(b[:])
	random := strings.ToLower(base32.StdEncoding.EncodeToString(b[:]))[:6]
	return ID(t.UTC().Format(idTimeLayout) + "-" + instance + "-" + random)
}

// ParseID accepts exactly what [NewID] returns.
func ParseID(s string) (ID, error) {
	m := idPattern.FindStringSubmatch(s)
	if m == nil {
		return "", fmt.Errorf("archive id %q: want TIME-INSTANCE-RANDOM as in %q", s, "20260801T020000Z-prod-k3x7qa")
	}
	if t, err := time.Parse(idTimeLayout, m[1]); err != nil || t.Format(idTimeLayout) != m[1] {
		return "", fmt.Errorf("archive id %q: %q is not a time", s, m[1])
	}
	if err := CheckInstanceName(m[2]); err != nil {
		return "", fmt.Errorf("archive id %q: %w", s, err)
	}
	return ID(s), nil
}

// Time is when the archive was made, in UTC; zero for an invalid ID.
func (id ID) Time() time.Time {
	if len(id) < len(idTimeLayout) {
		return time.Time{}
	}
	t, _ := time.Parse(idTimeLayout, string(id[:len(idTimeLayout)]))
	return t
}

// Instance is the name of the instance; "" for an invalid ID.
func (id ID) Instance() string {
	m := idPattern.FindStringSubmatch(string(id))
	if m == nil {
		return ""
	}
	return m[2]
}

// ArchiveName is the name of the encrypted object in a target.
func (id ID) ArchiveName() string { return string(id) + archiveSuffix }

// SidecarName is the name of the signed document in a target.
func (id ID) SidecarName() string { return string(id) + sidecarSuffix }

// IDFromName takes apart the name of an object in a target; false means that
// the object is not ours.
func IDFromName(objectName string) (ID, ObjectKind, bool) {
	kind := ArchiveObject
	s, ok := strings.CutSuffix(objectName, archiveSuffix)
	if !ok {
		kind = SidecarObject
		if s, ok = strings.CutSuffix(objectName, sidecarSuffix); !ok {
			return "", 0, false
		}
	}
	id, err := ParseID(s)
	if err != nil {
		return "", 0, false
	}
	return id, kind, true
}
