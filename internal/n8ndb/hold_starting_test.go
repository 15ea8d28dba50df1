package n8ndb

import (
	"os/exec"
	"sync"
	"testing"
)

// Children that are being started have a copy of every descriptor of this process
// for a moment, that of the database included, and are nobody who uses it.
func TestHoldBesideStartingChildren(t *testing.T) {
	_, path := snapLedger(t, "delete")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := exec.Command("/bin/true").Run(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	defer wg.Wait()
	defer close(stop)
	for range 100 {
		h, err := Hold(t.Context(), path, HoldConfig{AssumeStopped: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := h.refuseOpeners(nil); err != nil {
			t.Fatal(err)
		}
		if err := h.Release(); err != nil {
			t.Fatal(err)
		}
	}
}
