// SPDX-License-Identifier: Apache-2.0

package programs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A test that passes and leaks does not pass under assert, which names the line. By then
// the program that go has built for it is gone.
func TestWhereAssert(t *testing.T) {
	t.Parallel()
	dir := "testdata/sample"
	from := open(t, filepath.Join(dir, "sample.go"))
	want := from.at("sample.(*Client).Fetch", "// leaks here")
	report := filepath.Join(t.TempDir(), "report")
	for _, output := range []string{"text", "json"} {
		cmd := exec.Command(filepath.Join(built, "afterfin"), "assert", "--max-close-wait-age", "300ms", "-o", output, "--report", report,
			"--", "go", "test", "-count=1", ".")
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod", "GOPROXY=off")
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != 3 {
			t.Fatalf("%v, want exit 3: %s", err, &out)
		}
		raw, err := os.ReadFile(report)
		if err != nil {
			t.Fatal(err)
		}
		if output == "text" {
			line := fmt.Sprintf("  where %s  sample/sample.go:%d   (connect)\n", want.Function, want.Line)
			if !strings.Contains(string(raw), line) {
				t.Errorf("no %q in\n%s", line, raw)
			}
			continue
		}
		var doc struct {
			Leaks []struct {
				Comm  string
				Sites []madeAt
			}
		}
		if err := json.Unmarshal(raw, &doc); err != nil {
			t.Fatalf("%v: %s", err, raw)
		}
		if len(doc.Leaks) != 1 || doc.Leaks[0].Comm != "sample.test" || len(doc.Leaks[0].Sites) != 1 {
			t.Fatalf("not the one leak of sample.test: %s", raw)
		}
		doc.Leaks[0].Sites[0].check(t, "connect", want)
	}
}
