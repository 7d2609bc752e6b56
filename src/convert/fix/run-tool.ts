import { open } from 'node:fs/promises'
import { readFileSync, readdirSync } from 'node:fs'
import { ImageError } from '../../images/index.ts'
import { type ProcessIdentity, runGroup } from '../../process/index.ts'
import type { ConvertHooks, ConvertPlan } from '../types.ts'
import { watchCopy } from '../watch.ts'
import type { Appliance } from './appliance.ts'
import { clearSockets } from './appliance.ts'
import { messageReader, type ToolMessage } from './messages.ts'

export interface ToolRun {
  stdout: string
  messages: ToolMessage[]
}

const MAX_STDOUT = 8 * 1024 * 1024
const MAX_LOG = 64 * 1024 * 1024

/**
 * Runs one tool of libguestfs to its end in a process group of its own, its whole output kept in `log`. There is no time limit: it is ended when
 * nothing of its group computes, reads or writes for `plan.no_progress_timeout_ms`, since virt-v2v says nothing for minutes.
 * @throws {ImageError} guest-tool with what the tool said; the signal's reason when aborted
 */
export async function runGuestTool(
  argv: readonly string[],
  o: {
    plan: ConvertPlan
    hooks: ConvertHooks
    appliance: Appliance
    cwd: string
    /** grows while it works */
    outputs: readonly string[]
    /** absolute path; appended to */
    log: string
    phase: string
    /** what the run is to achieve: "convert the guest" */
    what: string
    /** stdout is data, not messages */
    data?: boolean
  },
): Promise<ToolRun> {
  const { hooks, plan } = o
  const tool = argv[0]!.replace(/^.*\//, '')
  const log = await open(o.log, 'a', 0o640)
  let logged = 0
  const keep = async (text: string | Buffer): Promise<void> => {
    if (logged > MAX_LOG) return
    logged += text.length
    await log.appendFile(logged > MAX_LOG ? `\n(the rest of the output, over ${MAX_LOG} bytes, is left out)\n` : text)
  }
  const watch = watchCopy({
    dir: plan.scratch,
    outputs: o.outputs,
    reserve: plan.reserve_bytes,
    timeoutMs: plan.no_progress_timeout_ms,
    outer: hooks.signal,
    phase: o.phase,
    what: tool,
  })
  const cpu = cpuProgress(watch.mark)
  const messages: ToolMessage[] = []
  let stdout = ''
  let tail = ''
  let said = ''
  const show = (percent?: number): void =>
    hooks.progress({ phase: o.phase, message: percent === undefined ? said : `${said} (${Math.round(percent)} %)` })
  const reader = messageReader({
    onMessage(m) {
      messages.push(m)
      hooks.log('agent', `${tool}: ${m.type === 'message' ? '' : `${m.type}: `}${m.text}\n`)
      if (m.type === 'message') {
        said = m.text
        show()
      }
    },
    onPercent: show,
    onOther(line) {
      // of virt-v2v the same words again, of the others all there is
      const step = /^\[ *[\d.]+\] (.+)$/.exec(line)?.[1]
      if (step === undefined || step === said) return
      said = step.slice(0, 200)
      hooks.log('agent', `${tool}: ${said}\n`)
      show()
    },
  })
  try {
    await keep(`$ ${argv.map((a) => JSON.stringify(a)).join(' ')}\n`)
    const r = await runGroup([...o.appliance.prefix, ...argv], {
      cwd: o.cwd,
      env: o.appliance.env,
      signal: watch.signal,
      killGraceMs: 10_000,
      onSpawn: (id) => {
        cpu.spawned(id)
        watch.spawned(id)
        hooks.spawned(id)
      },
      onStdout: async (c) => {
        await keep(c)
        if (!o.data) reader.feed(c.toString('utf8'))
        else if (stdout.length < MAX_STDOUT) stdout += c.toString('utf8')
      },
      onStderr: async (c) => {
        tail = (tail + c.toString('utf8')).slice(-64 * 1024)
        await keep(c)
      },
    })
    reader.end()
    await keep(`(${tool} ended with ${r.signal ?? `exit code ${r.exit_code}`} after ${Math.round(r.duration_ms)} ms)\n`)
    if (watch.signal.aborted) throw watch.signal.reason
    if (r.exit_code === 0) return { stdout, messages }
    if (plan.logs_dir === undefined) hooks.log('stderr', `${tail.slice(-8192)}\n`)
    throw failure(tool, o, r, messages, tail)
  } finally {
    cpu.stop()
    watch.stop()
    await log.sync().catch(() => undefined)
    await log.close()
    await clearSockets(o.log)
  }
}

function failure(
  tool: string,
  o: { phase: string; what: string; log: string; plan: ConvertPlan },
  r: { exit_code: number | null; signal: string | null },
  messages: readonly ToolMessage[],
  tail: string,
): ImageError {
  const said = messages.filter((m) => m.type === 'error').at(-1)?.text ?? lastError(tool, tail)
  const base = {
    phase: o.phase,
    ...(r.exit_code === null ? {} : { exit_code: r.exit_code }),
    ...(r.signal === null ? {} : { signal: r.signal }),
  }
  const why = said ?? (r.signal ? `it was ended by ${r.signal}` : `exit code ${r.exit_code}`)
  const message = `${tool} could not ${o.what}: ${why.replace(/\s*\n\s*/g, ' ').slice(0, 2000)}`
  if (
    /could not detect the source guest|no operating systems? (?:was|were) found|no root device found/i.test(why + tail)
  )
    return new ImageError(message, {
      ...base,
      code: 'no-guest',
      hint: 'The disks hold no system that libguestfs knows. Leave pipeline.fix and configuration out for such disks.',
    })
  if (/No space left on device|Disk quota exceeded/.test(`${why}${tail}`))
    return new ImageError(message, {
      ...base,
      code: 'no-space',
      transient: true,
      hint: 'Free space for the output and in fix.tmp_dir.',
    })
  if (r.signal === 'SIGKILL' || r.signal === 'SIGTERM')
    return new ImageError(message, {
      ...base,
      code: 'killed',
      transient: true,
      hint: 'Something outside vmspool ended it: look for the OOM killer in the kernel log.',
    })
  if (/guestfs_launch failed|appliance closed the connection|supermin exited with error/.test(why + tail))
    return new ImageError(message, {
      ...base,
      code: 'appliance',
      hint: 'The appliance of libguestfs did not start: run libguestfs-test-tool as the agent\'s user; "fix.accelerator: tcg" does without KVM, fix.kernel names another kernel.',
    })
  return new ImageError(message, {
    ...base,
    code: 'guest-tool',
    hint: `${o.plan.logs_dir === undefined ? 'Its last words are in the log.' : `Its whole output is in ${o.log.replace(/^.*\//, '')} in the job's folder.`} The copied disks were not changed.`,
  })
}

/** `virt-customize: error: …` up to the next blank line; else the last lines. */
function lastError(tool: string, tail: string): string | undefined {
  const at = tail.lastIndexOf(`${tool}: error: `)
  if (at >= 0)
    return tail
      .slice(at + tool.length + 9)
      .split(/\n\n|\nIf reporting bugs/)[0]!
      .trim()
  const lines = tail
    .trim()
    .split('\n')
    .filter((l) => !l.startsWith('libguestfs: trace') && l.trim() !== '')
  return lines.length === 0 ? undefined : lines.slice(-4).join('\n')
}

/** Part of one processor that a group must use on the average to count as working: an idle appliance uses about one in a hundred. */
const BUSY = 0.05
const TICKS_PER_S = 100 // USER_HZ, the same on all Linux ports that Node knows

/** Calls `mark` whenever the groups have computed for a while, so that a silent tool is not taken for a hanging one. */
function cpuProgress(mark: (n: number) => void): { spawned(id: ProcessIdentity): void; stop(): void } {
  const groups: number[] = []
  let used = 0
  let since = performance.now()
  let marks = 0
  const timer = setInterval(() => {
    const now = cpuTicks(groups)
    const elapsed_s = (performance.now() - since) / 1000
    // a child that ended takes its time out of the sum
    if (now < used) used = now
    else if (now - used >= Math.max(0.5, elapsed_s * BUSY) * TICKS_PER_S) {
      used = now
      since = performance.now()
      mark(++marks)
    }
  }, 1000)
  return { spawned: (id) => void groups.push(id.pid), stop: () => clearInterval(timer) }
}

/** utime and stime of all processes of these groups (proc(5), fields 5, 14, 15). */
function cpuTicks(groups: readonly number[]): number {
  let sum = 0
  for (const name of readdirSync('/proc')) {
    if (!/^\d/.test(name)) continue
    try {
      const text = readFileSync(`/proc/${name}/stat`, 'latin1')
      const f = text.slice(text.lastIndexOf(')') + 2).split(' ')
      if (groups.includes(Number(f[2]))) sum += Number(f[11]) + Number(f[12])
    } catch {
      // it ended
    }
  }
  return sum
}
