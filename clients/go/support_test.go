package quota_test

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// service starts a real `tollgate serve` on a free port, with its counters in memory. TOLLGATE_TEST_PROGRAM names
// the program.
func service(t *testing.T, files map[string]string, listen string) string {
	t.Helper()
	program := os.Getenv("TOLLGATE_TEST_PROGRAM")
	if program == "" {
		t.Fatal("TOLLGATE_TEST_PROGRAM must name the service's program")
	}
	folder := t.TempDir()
	arguments := []string{
		"serve", "--store", "memory:", "--log-format", "json", "--listen", listen, "--http-listen", "127.0.0.1:0",
	}
	for name, text := range files {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		arguments = append(arguments, "--"+name, path)
	}
	command := exec.Command(program, arguments...)
	command.Dir = folder
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "TOLLGATE_") {
			command.Env = append(command.Env, variable)
		}
	}
	log, err := command.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	})
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		var started struct{ Listen string }
		if json.Unmarshal(lines.Bytes(), &started) == nil && started.Listen != "" {
			go func() { _, _ = io.Copy(io.Discard, log) }()
			return started.Listen
		}
	}
	t.Fatal("the service ended")
	return ""
}
