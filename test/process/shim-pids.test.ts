// Pids come round again, and hosts are restarted: no stranger is taken for the command, and none is signalled.
import { readFileSync, writeFileSync } from 'node:fs'
import { release } from 'node:os'
import { join } from 'node:path'
import { execa } from 'execa'
import { describe, expect, test } from 'vitest'
import { identify, isAlive } from '../../src/process/index.ts'
import { vmspool } from '../support/agent.ts'
import { shimBed } from '../support/shim.ts'
import { tempDir } from '../support/temp.ts'

const root = process.geteuid?.() === 0
const [major, minor] = release().split('.').map(Number) as [number, number]
/** Before, pid_max is one for the whole machine. */
const fewPids = root && (major > 6 || (major === 6 && minor >= 14))

async function inNamespace(name: string): Promise<Record<string, unknown>> {
  await using dir = await tempDir()
  const before = readFileSync('/proc/sys/kernel/pid_max', 'utf8')
  const worker = join(import.meta.dirname, 'pids.process.ts')
  // The first process must take note of the end of all that lose their parent.
  const init = 'my $main = fork; exec @ARGV if !$main; while ((my $pid = wait) != -1) { exit $? >> 8 if $pid == $main }'
  const args = ['--pid', '--fork', '--kill-child', '--mount-proc', 'perl', '-e', init]
  const { stdout } = await execa('unshare', [...args, process.execPath, worker, name, dir.path])
  expect(readFileSync('/proc/sys/kernel/pid_max', 'utf8')).toBe(before)
  return JSON.parse(stdout)
}

describe.runIf(fewPids).concurrent('in a namespace of 400 pids', { timeout: 600_000 }, () => {
  test('a stranger with the pid of a lost command is left alone, by stop too', async () => {
    expect(await inNamespace('command')).toEqual({ same: true, state: 'lost', stopped: 'lost', alive: true })
  })

  test('a stranger with the pid of a killed shim is no shim', async () => {
    expect(await inNamespace('shim')).toEqual({ same: true, state: 'lost', stopped: 'lost', alive: true })
  })

  test('vmspool stop leaves such a stranger alone, and status invents no end', async () => {
    expect(await inNamespace('cli')).toEqual({
      stop: 1,
      state: 'failed',
      exit_code: null,
      reason: expect.stringMatching(/^sleep 600 ended unseen: its shim was killed/),
      alive: true,
    })
  })

  test('to stop what has ended signals nobody', async () => {
    expect(await inNamespace('ended')).toEqual({ same: true, state: 'ended', stopped: 'as before', alive: true })
  })

  test('a command’s pid is given to nobody while its shim still ends what it left', async () => {
    expect(await inNamespace('winding')).toEqual({ strangers: 50, taken: false, gone: 0, state: 'ended', left: false })
  })
})

describe.runIf(root)('another boot', { timeout: 600_000 }, () => {
  /** Runs code that believes the host was restarted: the kernel's boot id is covered by another, for it alone. */
  async function afterReboot(
    dir: string,
    ...command: string[]
  ): Promise<{ stdout: string; stderr: string; exitCode?: number }> {
    const file = join(dir, 'boot-id')
    writeFileSync(file, '11111111-2222-4333-8444-555555555555\n')
    const script = 'mount --bind "$1" /proc/sys/kernel/random/boot_id && shift && exec "$@"'
    const args = ['--mount', '--propagation', 'private', 'sh', '-c', script, 'sh', file, ...command]
    return execa('unshare', args, { env: { VMSPOOL_ROOT: dir }, reject: false })
  }

  test('makes what ran lost, says so, and signals nothing', async () => {
    await using b = await shimBed()
    const s = await b.start(['sleep', '600'])
    const module = join(import.meta.dirname, '../../src/process/index.ts')
    const said = await afterReboot(
      b.dir,
      process.execPath,
      '--input-type=module',
      '-e',
      `import { endGroup, shimState, stopShim } from '${module}'
       const dir = ${JSON.stringify(s.dir)}
       const before = shimState(dir)
       const stopped = await stopShim(dir, { by: 'me', graceMs: 0, force: true })
       await endGroup(before.process, 0)
       console.log(JSON.stringify([before.state, before.why, stopped.state]))`,
    )
    expect(JSON.parse(said.stdout)).toEqual(['lost', 'the host was restarted while it ran', 'lost'])
    expect(isAlive(s.process)).toBe(true)
    expect(isAlive({ ...s.process, ...s.process.shim })).toBe(true)
  })

  test('is seen by list, status and stop', async () => {
    await using b = await shimBed()
    const env = { VMSPOOL_ROOT: b.dir, VMSPOOL_TEST_BED: `shim-${b.dir}` }
    await execa(vmspool, ['run', '--name', 'job', '--', 'sleep', '600'], { env })
    const before = JSON.parse((await execa(vmspool, ['status', 'job', '-o', 'json'], { env })).stdout)
    expect(before).toMatchObject({ state: 'running', pid: expect.any(Number) })
    const [listed] = JSON.parse((await afterReboot(b.dir, vmspool, 'list', '-o', 'json')).stdout)
    const reason = expect.stringContaining('the host was restarted while it ran')
    expect(listed).toMatchObject({ id: before.id, state: 'failed', reason })
    const stop = await afterReboot(b.dir, vmspool, 'stop', '--force', 'job')
    expect([stop.exitCode, stop.stderr]).toEqual([1, expect.stringContaining('not running')])
    const after = JSON.parse((await afterReboot(b.dir, vmspool, 'status', 'job', '-o', 'json')).stdout)
    expect(after).toMatchObject({ state: 'failed', reason })
    expect(after.exit_code).toBeUndefined()
    expect(identify(before.pid)).toBeDefined()
  })
})
