// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"os"
	"strconv"
	"testing"
	"time"
)

// TestTimeWaitLength: 60 s, but where the kernel was built with another one.
func TestTimeWaitLength(t *testing.T) {
	want := time.Minute
	if n, err := strconv.Atoi(os.Getenv("AFTERFIN_TEST_TIMEWAIT")); err == nil {
		want = time.Duration(n) * time.Second
	}
	begin := time.Now()
	got, err := timeWaitLength()
	t.Logf("in %v", time.Since(begin))
	if got != want || err != nil {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
}
