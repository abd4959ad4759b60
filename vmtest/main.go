// SPDX-License-Identifier: Apache-2.0

// Command vmtest runs our kernel tests in guests with the kernels that afterfin
// promises to work on. See kernels.go for what is promised.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop) // a second Ctrl-C does not wait for anything
	code := run(ctx, os.Stdout, os.Stderr, os.Getenv, os.Args[1:])
	stop()
	os.Exit(code)
}

func run(ctx context.Context, stdout, stderr io.Writer, getenv func(string) string, args []string) int {
	flags := flag.NewFlagSet("vmtest", flag.ContinueOnError)
	flags.SetOutput(stderr)
	kernelPath := flags.String("kernel", "", "run on this `file`, a kernel image, with the modules next to it, instead of the matrix")
	pattern := flags.String("run", "", "only tests that match, as go test -run")
	documentName := flags.String("document", "", "measure on every kernel and write docs/`NAME`.md: 2msl (on those of make kernels too) or lab")
	hostFile := flags.String("host", "", "with --document lab: the `file` that has what afterfin lab all -o json says on this machine")
	laneName := flags.String("lane", "", "virtual or concurrent (default both)")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	names := getenv("KERNELS")
	s := &session{stdout: stdout, stderr: stderr, pattern: *pattern}
	err := s.plan(*documentName, *hostFile)
	if s.document != nil {
		s.pattern, *laneName = "^"+s.document.test+"$", "virtual"
		if names == "" {
			names = strings.Join(s.document.kernels, ",")
		}
	}
	if err == nil {
		err = s.setUp(*kernelPath, names, *laneName, flags.Args())
	}
	if err == nil {
		err = s.run(ctx)
	}
	if ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	if err != nil {
		fmt.Fprintf(stderr, "error: %v\n", err)
		return 1
	}
	return 0
}

// plan notes which document is to be written, if one is.
func (s *session) plan(name, hostFile string) error {
	if name == "" && hostFile == "" {
		return nil
	}
	d, ok := documents[name]
	switch {
	case !ok:
		return fmt.Errorf("--document: %q is none of them: %s", name, strings.Join(slices.Sorted(maps.Keys(documents)), ", "))
	case d.host != (hostFile != ""):
		return errors.New("--host goes with --document lab, and that with it")
	case d.host:
		raw, err := os.ReadFile(hostFile)
		if err != nil {
			return err
		}
		s.host = strings.Split(strings.TrimSpace(string(raw)), "\n")
	}
	s.document = &d
	return nil
}

func (s *session) setUp(kernelPath, names, laneName string, rest []string) error {
	if len(rest) > 0 {
		return fmt.Errorf("unknown argument %q", rest[0])
	}
	var err error
	if s.kernels, err = choose(names); err != nil {
		return err
	}
	if kernelPath != "" {
		if names != "" {
			return errors.New("--kernel: KERNELS chooses from the matrix, so only one of them")
		}
		k, img, err := givenKernel(kernelPath)
		if err != nil {
			return err
		}
		s.kernels, s.given = []kernel{k}, img
	}
	for _, l := range lanes {
		if laneName == "" || laneName == l.name {
			s.lanes = append(s.lanes, l)
		}
	}
	if s.lanes == nil {
		return fmt.Errorf("--lane: %q is neither virtual nor concurrent", laneName)
	}
	user, err := os.UserCacheDir()
	if err != nil {
		return fmt.Errorf("find a folder for kernels: %w", err)
	}
	s.cache = filepath.Join(user, "afterfin", "vmtest")
	s.logs = filepath.Join(s.cache, "logs")
	if err := os.MkdirAll(s.logs, 0o755); err != nil {
		return err
	}
	gomod, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return fmt.Errorf("find the source: %w", err)
	}
	s.builder.note = s.note
	s.builder.module = filepath.Dir(strings.TrimSpace(string(gomod)))
	return nil
}
