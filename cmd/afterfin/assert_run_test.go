// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"afterfin/internal/lab"
)

// verdict is the document of assert -o json, read as a script would.
type verdict struct {
	Leaked     bool
	Reason     string
	Exit       int
	Status     int `json:"command_exit"`
	Signal     *string
	Resolution *int64 `json:"resolution_ns"`
	Leaks      []struct {
		PID      *int
		Comm     *string
		Cmdline  []string
		FD       *int
		Local    string
		Remote   string
		AgeMin   *int64 `json:"age_min_ns"`
		AgeMax   *int64 `json:"age_max_ns"`
		Age      *int64 `json:"age_ns"`
		Quality  string `json:"age_quality"`
		Verdict  string
		Side     *string
		Closed   bool
		NetNS    uint32
		Inferred bool
	}
	TimeWait *int `json:"time_wait"`
}

// asserted is a run of afterfin assert, as a process of its own.
// Its output goes to files: a pipe would end with the last who holds it only.
type asserted struct {
	*exec.Cmd
	stdout, stderr, report output
}

// output is the name of a file; it is text when printed.
type output string

func (o output) String() string {
	text, err := os.ReadFile(string(o))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func (o output) create(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(string(o))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// startAssert runs the steps under assert, in a netns; stdin and stdout may be nil.
func startAssert(t *testing.T, ns *lab.NetNS, stdin, stdout *os.File, flags []string, steps ...string) *asserted {
	t.Helper()
	dir := t.TempDir()
	a := &asserted{stdout: output(filepath.Join(dir, "stdout")), stderr: output(filepath.Join(dir, "stderr")), report: output(filepath.Join(dir, "report"))}
	args := append([]string{"assert", "-o", "json", "--report", string(a.report)}, flags...)
	a.Cmd = exec.Command("/proc/self/exe", slices.Concat(args, []string{"--", "/proc/self/exe", asCommand}, steps)...)
	a.Env = append(os.Environ(), asMain+"=1")
	stderr := a.stderr.create(t)
	defer stderr.Close()
	if stdout == nil {
		stdout = a.stdout.create(t)
		defer stdout.Close()
	}
	a.Stdout, a.Stderr = stdout, stderr
	if stdin != nil {
		a.Stdin = stdin
	}
	if err := ns.Do(a.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Process.Kill() })
	return a
}

// wait gives what the report says, whose exit code must be the real one.
func (a *asserted) wait(t *testing.T) *verdict {
	t.Helper()
	err := a.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	v := new(verdict)
	if err := json.Unmarshal([]byte(a.report.String()), v); err != nil {
		t.Fatalf("exit %d: %v in %q: %s", a.ProcessState.ExitCode(), err, a.report, a.stderr)
	}
	if v.Exit != a.ProcessState.ExitCode() {
		t.Errorf("the report says exit %d, in fact it was %d", v.Exit, a.ProcessState.ExitCode())
	}
	return v
}
