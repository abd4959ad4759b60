// SPDX-License-Identifier: Apache-2.0

// Command afterfin shows TCP state changes with their owners. See README.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"afterfin/internal/lab"
	"afterfin/internal/privilege"
	"afterfin/internal/tracer"
)

// env is all that a command knows of the world outside, so that tests run
// commands in their own process.
type env struct {
	ctx      context.Context // done: end cleanly, with the summary
	ending   []os.Signal     // what ends ctx
	stdin    io.Reader       // for the command that assert starts
	stdout   io.Writer
	stderr   io.Writer
	terminal bool   // stdout is one
	watched  bool   // stderr is one
	abort    func() // end at once, with exitRuntime: a write to stdout never returns
	getenv   func(string) string
	giveUp   func() error  // all privileges that serve does not need after its start; nil: none
	types    *tracer.Types // shared by tests; nil: parsed for each tracer and dropped
}

// Exit codes, part of the contract.
const (
	exitOK        = 0
	exitRuntime   = 1
	exitUsage     = 2
	exitThreshold = 3 // only where one was asked for
	exitPrivilege = 4
	exitFeature   = 5
)

// failure is an error with its exit code and the way out. Without err all is said
// already.
type failure struct {
	code int
	err  error
	hint string
}

func (f *failure) Error() string {
	if f.err == nil {
		return fmt.Sprintf("exit code %d", f.code)
	}
	return f.err.Error()
}
func (f *failure) Unwrap() error { return f.err }

func usage(format string, args ...any) error {
	return &failure{code: exitUsage, err: fmt.Errorf(format, args...)}
}

func main() {
	lab.Main() // an actor of an experiment is this program too
	// A reader that goes away (head) ends the stream with EPIPE, not the process. The signal
	// is caught and not ignored: that, a command that assert starts would inherit.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	ending := []os.Signal{syscall.SIGINT, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // nohup
		ending = append(ending, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), ending...)
	isTerminal := func(f *os.File) bool { _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); return err == nil }
	// A second signal kills, but not at once: timeout(1) sends its own twice.
	context.AfterFunc(ctx, func() { time.AfterFunc(time.Second, stop) })
	code := run(env{
		ctx:      ctx,
		ending:   ending,
		stdin:    os.Stdin,
		stdout:   os.Stdout,
		stderr:   os.Stderr,
		terminal: isTerminal(os.Stdout),
		watched:  isTerminal(os.Stderr),
		abort:    func() { os.Exit(exitRuntime) },
		getenv:   os.Getenv,
		giveUp:   func() error { return privilege.Keep(kept...) },
	}, os.Args[1:])
	stop()
	os.Exit(code)
}

func run(e env, args []string) int {
	root := &cobra.Command{
		Use:           "afterfin",
		Short:         "See every TCP state change on this host, with its process, and who leaks sockets",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
	}
	root.AddCommand(watchCommand(e), leaksCommand(e), assertCommand(e), timewaitCommand(e), mslCommand(e), portsCommand(e), labCommand(e), serveCommand(e), doctorCommand(e), versionCommand(e))
	root.SetArgs(args)
	root.SetOut(e.stdout)
	root.SetErr(e.stderr)
	root.SetContext(e.ctx)

	cmd, err := root.ExecuteC()
	if err == nil {
		return exitOK
	}
	var f *failure
	if !errors.As(err, &f) { // cobra's own: an unknown flag or command
		f = &failure{code: exitUsage, err: err, hint: "see " + cmd.CommandPath() + " --help"}
	}
	if f.err != nil {
		fmt.Fprintf(e.stderr, "error: %v\n", f.err)
	}
	if f.hint != "" {
		fmt.Fprintf(e.stderr, "hint: %s\n", f.hint)
	}
	return f.code
}
