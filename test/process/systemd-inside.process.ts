// Runs inside the container of test/process/systemd.process.ts: scopes of the real systemd, and what they do.
import { limitedBy, runGroup, scopeManager } from '../../src/process/index.ts'

const manager = await scopeManager()
const unit = (name: string) => ({ manager, unit: `vmspool-test-${name}` })
async function run(name: string, limits: Parameters<typeof limitedBy>[0], argv: string[]) {
  let out = ''
  const take = (c: Buffer): void => {
    out += c.toString('utf8')
  }
  const { outer, inner, warnings } = limitedBy(limits, unit(name))
  const began = performance.now()
  const r = await runGroup([...outer, ...inner, ...argv], { onStdout: take, onStderr: take })
  return { code: r.exit_code, signal: r.signal, out: out.trim(), warnings, ms: performance.now() - began }
}
const times = 'my ($u, $s) = times; printf "%.2f\\n", $u + $s'
process.stdout.write(
  JSON.stringify({
    manager,
    group: await run('group', { memory_bytes: 64 << 20 }, ['cat', '/proc/self/cgroup']),
    small: await run('small', { memory_bytes: 64 << 20 }, ['perl', '-e', 'print "fine"']),
    // Two processes that together have too much: address space would not tell.
    hog: await run('hog', { memory_bytes: 64 << 20 }, [
      'perl',
      '-e',
      'fork; for (1 .. 60) { push @x, "x" x (1 << 20); select undef, undef, undef, 0.01 } print "had it\n"; wait',
    ]),
    tasks: await run('tasks', { processes: 8 }, [
      'perl',
      '-e',
      'for (1 .. 30) { my $p = fork; last unless defined $p; if (!$p) { sleep 2; exit } $n++ } print $n; 1 while wait > 0',
    ]),
    cpu: await run('cpu', { cpu: 0.25 }, ['perl', '-e', `$e = time + 3; 1 while time < $e; ${times}`]),
  }),
)
