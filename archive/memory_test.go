package archive

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"filippo.io/age"
)

// TestMain lets the test binary be the process whose memory is measured.
func TestMain(m *testing.M) {
	job := os.Getenv("ARCHIVE_TEST_MEMORY")
	if job == "" {
		os.Exit(m.Run())
	}
	err := memoryJob(job)
	if err == nil {
		err = printPeak()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// printPeak prints the largest memory of this process in kB. The parent cannot
// ask for it: a child's rusage begins with the memory of its parent.
func printPeak() error {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return errors.New("no VmHWM in /proc/self/status")
	}
	fmt.Print(" ", fields[0])
	return nil
}

// memoryJob writes or reads the archive of "write PATH BYTES SECRETS" or "read PATH".
func memoryJob(job string) error {
	f := strings.Fields(job)
	id := fuzzIdentity()
	if f[0] == "read" {
		in, err := os.Open(f[1])
		if err != nil {
			return err
		}
		defer in.Close()
		r, err := NewReader(in, filepath.Dir(f[1]), id)
		if err != nil {
			return err
		}
		defer r.Close()
		if err := r.Verify(); err != nil {
			return err
		}
		n := 0
		for _, err := range r.Secrets() {
			if err != nil {
				return err
			}
			n++
		}
		fmt.Print(n)
		return nil // the count, for the parent
	}
	size, err := strconv.ParseInt(f[2], 10, 64)
	if err != nil {
		return err
	}
	secrets, err := strconv.Atoi(f[3])
	if err != nil {
		return err
	}
	out, err := os.Create(f[1])
	if err != nil {
		return err
	}
	defer out.Close()
	w, err := NewWriter(out, WriterConfig{Header: testHeader(), Recipients: []age.Recipient{id.Recipient()}, SpoolDir: filepath.Dir(f[1])})
	if err != nil {
		return err
	}
	defer w.Abort()
	if err := w.Add(Entry{Name: "added", Size: size / 2, Mode: 0o600}, io.LimitReader(newSample(512<<10), size/2)); err != nil {
		return err
	}
	s := w.Stream("streamed", 0o600)
	if _, err := io.Copy(s, io.LimitReader(newSample(512<<10), size/2)); err != nil {
		return err
	}
	if err := s.Close(); err != nil {
		return err
	}
	for i := range secrets {
		if err := w.AddSecret(testSecret(i)); err != nil {
			return err
		}
	}
	_, err = w.Close(testManifest())
	fmt.Print(secrets)
	return err
}

// sample yields for ever what looks like n8n's execution data and repeats, a
// little changed, after period bytes. With a period beyond every window it
// compresses to less than a half; a short one saves memory.
type sample struct {
	block []byte
	at    int
	round uint64
}

func newSample(period int) *sample {
	s := &sample{}
	noise := random(period/4, 9)
	var b bytes.Buffer
	for i := 0; b.Len() < period; i++ {
		n := noise[i*24%(len(noise)-64):]
		fmt.Fprintf(&b, `{"startTime":17%08d,"executionTime":%d,"source":[{"previousNode":"Webhook"}],"executionStatus":"success","data":{"main":[[{"json":{"id":"%x","token":"%x"}}]]}}`,
			i*7919, n[0], n[1:12], n[12:24])
	}
	s.block = bytes.Clone(b.Bytes()[:period])
	return s
}

func (s *sample) Read(p []byte) (int, error) {
	n := copy(p, s.block[s.at:])
	if s.at += n; s.at == len(s.block) {
		s.at = 0
		s.round++
		// Otherwise a long window would see the same again.
		for i := int(s.round % 97); i < len(s.block); i += 97 {
			s.block[i] ^= byte(s.round)
		}
	}
	return n, nil
}

// peak runs a job in a process of its own and returns its largest memory in MB
// and the number of secrets.
func peak(t testing.TB, job string) (mb, secrets int) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "ARCHIVE_TEST_MEMORY="+job)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", job, err, stderr.String())
	}
	if _, err := fmt.Sscan(string(out), &secrets, &mb); err != nil {
		t.Fatalf("%s: %v in %q", job, err, out)
	}
	return mb >> 10, secrets
}

func TestMemoryIsConstant(t *testing.T) {
	const limit = 60 // MB
	large, many := int64(256<<20), 1_000_000
	if raceDetector {
		t.Log("with the race detector the numbers mean nothing, so only the results of little are checked")
		large, many = 8<<20, 20_000
	}
	dir := t.TempDir()
	for _, tc := range []struct {
		name    string
		bytes   int64
		secrets int
	}{
		{"large entries", large, 10},
		{"many secrets", 1 << 20, many},
	} {
		path := filepath.Join(dir, "archive")
		wrote, _ := peak(t, fmt.Sprintf("write %s %d %d", path, tc.bytes, tc.secrets))
		read, n := peak(t, "read "+path)
		t.Logf("%s: writing %d MB, reading %d MB", tc.name, wrote, read)
		if n != tc.secrets {
			t.Errorf("%s: %d secrets were read", tc.name, n)
		}
		if !raceDetector && max(wrote, read) > limit {
			t.Errorf("%s: writing took %d MB, reading %d MB, limit %d MB", tc.name, wrote, read, limit)
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("left in the spool folder: %v, %v", left, err)
	}
}
