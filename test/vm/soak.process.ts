// Every phase of every action on a VM, with the agent killed, libvirtd killed, and libvirtd frozen, each at several moments of the phase. The
// table tells how often each was hit; a cell that was not seen in time is tried again. VM_KILLS=stop,start runs these actions alone,
// VM_KILLS_PHASES=address these phases, VM_KILLS_BY=frozen these blows.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { act, type Blow, DISTURBANCES, type Disturbance, LIFE, nothingLeft, REFUSED, type Step } from './kill.ts'
import { NETWORK, type Scene, scene } from './scene.ts'

/** ms into the phase */
const MOMENTS = (process.env.VM_KILLS_MOMENTS ?? '0,40,250').split(',').map(Number)
const only = process.env.VM_KILLS?.split(',')
const by = DISTURBANCES.filter((d) => d.includes(process.env.VM_KILLS_BY ?? ''))
const phases = process.env.VM_KILLS_PHASES?.split(',')
const TRIES = 3

const steps = [...LIFE, REFUSED].filter((s) => !only || only.includes(s.fails ? 'refused' : s.action))
const rows: string[][] = []
const faults: string[] = []
let lives = 0
let stuckTimes = 0

const titleOf = (s: Step): string => (s.fails ? 'create, refused' : s.action)
/** how long libvirtd is away: as for a restart, until the breaker is open, and until its pings are missed */
const LENGTHS: Record<Disturbance, readonly number[]> = {
  'agent killed': [0, 500, 0],
  'libvirtd killed': [100, 1500, 7000],
  'libvirtd frozen': [500, 3000, 24_000],
}

/** Missed pings take their time: where guests begin and end. */
const LONG = new Set<string>(['start', 'stop'])

/** From nothing to where the action begins. */
async function prepare(s: Scene, name: string, step: Step): Promise<void> {
  const [create, stop] = LIFE as [Step, Step]
  if (step.action === 'create') return
  await act(s, name, create)
  if (step.action === 'start') await act(s, name, stop)
}

async function cell(s: Scene, step: Step, blow: Blow): Promise<{ hit: boolean; seconds: number; stuck: number }> {
  const name = `life-${++lives}`
  await prepare(s, name, step)
  const struck = await act(s, name, step, blow)
  if (step.after !== 'gone') await act(s, name, LIFE.at(-1)!)
  const left = await nothingLeft(s)
  if (left.length > 0) throw new Error(`Something is left: ${left.join('; ')}`)
  return struck
}

const dir = mkdtempSync(join(tmpdir(), 'vm-kills-'))
const open = async (): Promise<Scene> => {
  const s = await scene(mkdtempSync(join(dir, 's-')))
  await s.libvirtd.natNetwork(NETWORK)
  await s.bed.start()
  return s
}
let s = await open()
try {
  for (const step of steps) {
    for (const phase of step.phases.filter((p) => !phases || phases.includes(p))) {
      const row = [titleOf(step), phase]
      for (const disturbance of by) {
        let hits = 0
        let most = 0
        for (const [i, after_ms] of MOMENTS.entries()) {
          const lengths = LENGTHS[disturbance].filter((ms) => ms < 20_000 || LONG.has(phase))
          const blow: Blow = { disturbance, phase, after_ms, for_ms: lengths[i % lengths.length]! }
          try {
            for (let t = 0; t < TRIES; t++) {
              const { hit, seconds, stuck } = await cell(s, step, blow)
              stuckTimes += stuck
              most = Math.max(most, seconds)
              if (!hit) continue
              hits++
              break
            }
          } catch (error) {
            faults.push(
              `${titleOf(step)}, ${phase}, ${JSON.stringify(blow)}: ${(error as Error).message.slice(0, 4000)}`,
            )
            process.stdout.write(`✗ ${faults.at(-1)}\n`)
            // what is wrong here must not count for the next ones
            await s[Symbol.asyncDispose]()
            s = await open()
          }
        }
        row.push(`${hits}/${MOMENTS.length}`, most.toFixed(1))
        process.stdout.write(
          `${titleOf(step)} ${phase} ${disturbance}: ${hits} of ${MOMENTS.length}, ${most.toFixed(1)} s\n`,
        )
      }
      rows.push(row)
    }
  }
} finally {
  await s[Symbol.asyncDispose]()
  rmSync(dir, { recursive: true, force: true, maxRetries: 5 })
}

const head = ['action', 'phase', ...by.flatMap((d) => [`${d}: right`, 'most s'])]
process.stdout.write(`\n| ${head.join(' | ')} |\n|${head.map(() => '---').join('|')}|\n`)
for (const r of rows) process.stdout.write(`| ${r.join(' | ')} |\n`)
process.stdout.write(
  `\n${lives} lives, ${faults.length} faults; libvirt itself was stuck, and helped by hand, ${stuckTimes} times\n`,
)
process.exitCode = faults.length === 0 ? 0 : 1
