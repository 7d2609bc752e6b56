/**
 * Runs seeds of the simulation and prints one JSON line: `node run.ts FROM COUNT [--trace SEED] [--stop]`.
 * A seed decides everything: the faults, who runs when, what fails. The same seed fails the same way.
 */
import { spoolFolders } from '../../src/spool/spool.ts'
import { agent, client, lastClient, LAYOUT } from './actors.ts'
import { seeded } from './random.ts'
import { Rules, Violation } from './rules.ts'
import { type Faults, NO_FAULTS, World } from './world.ts'

/** Kinds of weather, by seed: each fault alone, and together. */
const WEATHER: [string, Partial<Faults>][] = [
  ['fair', {}],
  ['crash', { crash: 0.008 }],
  ['lost', { lost: 0.05 }],
  ['stall', { stall: 0.01 }],
  ['eio', { eio: 0.03 }],
  ['power', { power: 0.004, crash: 0.003 }],
  ['stale', { stale: 0.4, stall: 0.005 }],
  ['full', { nospace: 0.05, crash: 0.003 }],
  ['replay', { replay: 0.2, lost: 0.05, stall: 0.005 }],
  ['all', { crash: 0.004, lost: 0.03, stall: 0.006, eio: 0.02, stale: 0.3, nospace: 0.01, replay: 0.05 }],
  ['storm', { crash: 0.004, lost: 0.02, stall: 0.006, eio: 0.01, stale: 0.2, power: 0.003, replay: 0.05 }],
]

const LIVE_STEPS = 1_500
const CALM_STEPS = 60_000

export async function runSeed(
  seed: number,
  tracing = false,
): Promise<{ violation?: string; steps: number; weather: string; trace: string[] }> {
  const choose = seeded(seed ^ 0x5eed)
  const [weather, faults] = WEATHER[seed % WEATHER.length]!
  const world = new World(seed, { ...NO_FAULTS, ...faults }, tracing)
  const rules = new Rules(world)
  for (const dir of ['/s', ...spoolFolders(LAYOUT).map(([d]) => d)]) world.disk.mkdir(dir)
  world.disk.settle()
  let changed = false
  world.onChange = (op, args) => {
    if (op === 'rename') rules.renamed(args[1]!)
    if (/^(rename|write|create|unlink)$/.test(op)) changed = true
  }
  const remote = choose.chance(0.5)
  try {
    for (let i = 0; i < 2 + choose.int(2); i++) agent(world, rules, remote)
    for (let i = 0; i < 3; i++) client(world, rules, i)
    for (let i = 0; i < LIVE_STEPS; i++) {
      weatherStrikes(world, rules, remote)
      if (!(await world.step(false))) break
      if (changed) {
        changed = false
        rules.check()
      }
    }
    // The faults end and the clients finish. Either the agents die and a new one clears up, or they go on and must
    // find what they had forgotten themselves.
    world.calm = true
    if (choose.chance(0.5)) for (const p of world.procs.filter((x) => x.agent)) world.kill(p)
    while (world.procs.some((p) => !p.agent)) await world.step(true)
    if (!world.procs.some((p) => p.agent)) agent(world, rules, remote)
    // Of each name one more, or whoever comes after a job that nobody ever drops waits for ever.
    lastClient(world, rules)
    while (world.procs.some((p) => !p.agent)) await world.step(true)
    let quiet = false
    for (let i = 0; i < CALM_STEPS && !quiet; i++) {
      await world.step(true)
      if (changed) {
        changed = false
        rules.check()
      }
      if (i % 100 === 0) quiet = rules.quiet()
    }
    if (!quiet) throw new Violation(`NOT-QUIET ${rules.why()}`)
    for (const p of [...world.procs]) world.kill(p)
    await rules.atEnd()
    return { steps: world.steps, weather, trace: world.trace }
  } catch (error) {
    if (!(error instanceof Violation)) throw error
    return { violation: error.message, steps: world.steps, weather, trace: world.trace }
  }
}

function weatherStrikes(world: World, rules: Rules, remote: boolean): void {
  const { random: r, faults: f } = world
  const agents = world.procs.filter((p) => p.agent)
  if (agents.length === 0) return
  if (r.chance(f.crash)) {
    const p = r.pick(agents)
    world.say(`* ${p.name} is killed`)
    world.kill(p)
    agent(world, rules, remote)
  }
  if (r.chance(f.stall)) {
    const p = r.pick(agents)
    p.asleepUntil = world.mono + 20_000 + r.int(120_000)
    world.say(`* ${p.name} sleeps until ${p.asleepUntil}`)
  }
  if (r.chance(f.power)) {
    world.say('* the power fails')
    const count = agents.length
    for (const p of [...world.procs]) world.kill(p)
    world.disk.power(r)
    rules.afterPower()
    for (let i = 0; i < count; i++) agent(world, rules, remote)
  }
}

async function main(): Promise<void> {
  const [from = '0', count = '200'] = process.argv.slice(2).filter((a) => !a.startsWith('--'))
  const trace = process.argv.includes('--trace')
  const stop = process.argv.includes('--stop')
  const failures: { seed: number; weather: string; violation: string }[] = []
  let steps = 0
  let seeds = 0
  const started = performance.now()
  for (let seed = Number(from); seed < Number(from) + Number(count); seed++) {
    const result = await runSeed(seed, trace)
    steps += result.steps
    seeds += 1
    if (result.violation) {
      failures.push({ seed, weather: result.weather, violation: result.violation })
      if (trace) process.stderr.write(`${result.trace.slice(-Number(process.env.TRACE_LINES ?? 150)).join('\n')}\n`)
      if (stop) break
    }
  }
  const seconds = Math.round((performance.now() - started) / 100) / 10
  process.stdout.write(
    `${JSON.stringify({ seeds, steps, violations: failures.length, failures: failures.slice(0, 20), seconds })}\n`,
  )
  process.exitCode = failures.length > 0 ? 1 : 0
}

await main()
