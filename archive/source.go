package archive

import (
	"errors"
	"io"
	"sync"

	"filippo.io/age"
)

// maxAgeHeader bounds what age may read before the payload begins: a hybrid
// stanza has about 1.6 kB, so hundreds of recipients fit.
const maxAgeHeader = 1 << 20

var errLongHeader = errors.New("the age header is too long")

// watched remembers how a layer ended, because the layers above it (zstd, tar)
// replace errors by their own. The zstd decoder reads from a goroutine.
type watched struct {
	r io.Reader

	mu      sync.Mutex
	left    int64 // bytes that may still be read, if bounded
	bounded bool
	total   int64
	eof     bool
	err     error // first error that is not io.EOF
}

func (w *watched) Read(p []byte) (int, error) {
	w.mu.Lock()
	if w.bounded && int64(len(p)) > w.left {
		if p = p[:w.left]; len(p) == 0 {
			w.err = errLongHeader
			w.mu.Unlock()
			return 0, errLongHeader
		}
	}
	w.mu.Unlock()
	n, err := w.r.Read(p)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.left -= int64(n)
	w.total += int64(n)
	if err == io.EOF {
		w.eof = true
	} else if err != nil && w.err == nil {
		w.err = err
	}
	return n, err
}

func (w *watched) unbind() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bounded = false
}

// empty says that the whole of it is shorter than an age header can be.
func (w *watched) empty() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.eof && w.total < int64(len("age-encryption.org/v1\n"))
}

func (w *watched) state() (eof bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.eof, w.err
}

// onlyNative says that no identity asks another program or a person, so that an
// error while unwrapping can only come from the file.
func onlyNative(ids []age.Identity) bool {
	for _, id := range ids {
		switch id.(type) {
		case *age.X25519Identity, *age.HybridIdentity, *age.ScryptIdentity:
		default:
			return false
		}
	}
	return true
}
