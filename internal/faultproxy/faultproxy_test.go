package faultproxy

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// backend answers every request with its own body, and counts them.
func backend(t *testing.T) (*httptest.Server, *atomic.Int64) {
	var served atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		served.Add(1)
		w.Header().Set("Seen-Host", r.Host)
		w.Write(b)
	}))
	t.Cleanup(s.Close)
	return s, &served
}

func send(t *testing.T, p *Proxy, body string, timeout time.Duration) (string, *http.Response, error) {
	t.Helper()
	c := &http.Client{Timeout: timeout, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Post(p.URL()+"/x?a=b", "text/plain", strings.NewReader(body))
	if err != nil {
		return "", nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), resp, err
}

func TestFaults(t *testing.T) {
	content := strings.Repeat("x", 100_000)
	for _, tc := range []struct {
		name   string
		fault  Fault
		served int64 // by the server
		check  func(t *testing.T, body string, resp *http.Response, err error)
	}{
		{"answer", Fault{Kind: Answer, Status: 503, Body: "slow"}, 0, func(t *testing.T, body string, resp *http.Response, err error) {
			if err != nil || resp.StatusCode != 503 || body != "slow" {
				t.Errorf("%v %q %v", resp, body, err)
			}
		}},
		{"answer after", Fault{Kind: AnswerAfter, Status: 500}, 1, func(t *testing.T, _ string, resp *http.Response, err error) {
			if err != nil || resp.StatusCode != 500 {
				t.Errorf("%v %v", resp, err)
			}
		}},
		{"lose answer", Fault{Kind: LoseAnswer}, 1, wantError},
		{"cut request", Fault{Kind: CutRequest, After: 70_000}, 0, wantError},
		{"cut answer", Fault{Kind: CutAnswer, After: 70_000}, 1, func(t *testing.T, body string, _ *http.Response, err error) {
			if err == nil || len(body) > 70_000 {
				t.Errorf("%d bytes, %v", len(body), err)
			}
		}},
		{"reset", Fault{Kind: Reset}, 0, wantError},
		{"shift date", Fault{Kind: ShiftDate, Shift: time.Hour}, 1, func(t *testing.T, body string, resp *http.Response, err error) {
			if err != nil || body != content {
				t.Fatalf("%d bytes, %v", len(body), err)
			}
			at, err := http.ParseTime(resp.Header.Get("Date"))
			if ahead := time.Until(at); err != nil || ahead < 55*time.Minute {
				t.Errorf("date is %v ahead, %v", ahead, err)
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, served := backend(t)
			p := New(t, s.URL)
			p.Inject(tc.fault)
			body, resp, err := send(t, p, content, time.Minute)
			tc.check(t, body, resp, err)
			if p.Left() != 0 {
				t.Error("the fault is not used up")
			}
			if n := served.Load(); n != tc.served {
				t.Errorf("the server answered %d requests, want %d", n, tc.served)
			}
			// The next request is unharmed.
			if body, resp, err = send(t, p, content, time.Minute); err != nil || body != content || resp.Header.Get("Seen-Host") != p.Addr() {
				t.Errorf("next: %d bytes, %v", len(body), err)
			}
			if all := p.Requests(); len(all) != 2 || !all[0].Harmed || all[1].Harmed || all[1].String() != "POST /x?a=b" {
				t.Errorf("requests: %v", all)
			}
		})
	}
}

func wantError(t *testing.T, body string, _ *http.Response, err error) {
	if err == nil {
		t.Errorf("an answer of %d bytes", len(body))
	}
}

func TestStallsUntilTheClientGivesUp(t *testing.T) {
	for name, kind := range map[string]Kind{"request": StallRequest, "answer": StallAnswer} {
		t.Run(name, func(t *testing.T) {
			s, _ := backend(t)
			p := New(t, s.URL)
			p.Inject(Fault{Kind: kind, After: 10})
			_, _, err := send(t, p, strings.Repeat("x", 1000), 100*time.Millisecond)
			if !errors.Is(err, os.ErrDeadlineExceeded) && (err == nil || !strings.Contains(err.Error(), "Timeout")) {
				t.Errorf("error %v, want a timeout", err)
			}
		})
	}
}

func TestMatchSkipAndTimes(t *testing.T) {
	s, _ := backend(t)
	p := New(t, s.URL)
	p.Inject(Fault{Match: Method("DELETE"), Times: -1, Status: 500}, Fault{Match: Query("POST", "a"), Skip: 1, Times: 2, Status: 503}, Fault{Match: Query("POST", "b"), Status: 500})
	var got []int
	for range 4 {
		_, resp, err := send(t, p, "", time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, resp.StatusCode)
	}
	if want := [4]int{200, 503, 503, 200}; [4]int(got) != want {
		t.Errorf("statuses %v, want %v", got, want)
	}
	if p.Left() != 1 {
		t.Errorf("%d faults left, want the one that matches nothing", p.Left())
	}
	if p.Clear(); p.Left() != 0 || len(p.Requests()) != 0 {
		t.Error("not cleared")
	}
}

func TestTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	p := NewTCP(t, l.Addr().String())
	echo := func() (int, error) {
		c, err := net.Dial("tcp", p.Addr())
		if err != nil {
			return 0, err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
			return 0, err
		}
		if _, err := c.Write(make([]byte, 1000)); err != nil {
			return 0, err
		}
		c.(*net.TCPConn).CloseWrite()
		b, err := io.ReadAll(c)
		return len(b), err
	}
	p.Next(Plan{}, Plan{Up: 500}, Plan{Down: 300}, Plan{Down: 300, Stall: true})
	if n, err := echo(); n != 1000 || err != nil {
		t.Errorf("unharmed: %d, %v", n, err)
	}
	if n, err := echo(); err == nil || n > 500 {
		t.Errorf("cut upwards: %d, %v", n, err)
	}
	if n, err := echo(); err == nil || n > 300 {
		t.Errorf("cut downwards: %d, %v", n, err)
	}
	if n, err := echo(); !errors.Is(err, os.ErrDeadlineExceeded) || n != 300 {
		t.Errorf("stalled: %d, %v", n, err)
	}
	if n, err := echo(); n != 1000 || err != nil {
		t.Errorf("unharmed again: %d, %v", n, err)
	}
	if p.Connections() != 5 {
		t.Errorf("%d connections", p.Connections())
	}
}
