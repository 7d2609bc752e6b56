// One VM's life with the agent killed, libvirtd killed and libvirtd frozen in the middle of its actions. `npm run soak -- 'vm kills'` has every phase.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { isRoot } from '../support/libvirtd.ts'
import { type TempDir, tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'
import { act, type Blow, LIFE, nothingLeft, REFUSED, type Step } from './kill.ts'
import { type Scene, scene } from './scene.ts'

const [create, stop, start, restart, remove] = LIFE as [Step, Step, Step, Step, Step]

describe.runIf(isRoot)('a VM', () => {
  let dir: TempDir
  let s: Scene
  beforeAll(async () => {
    dir = await tempDir()
    s = await scene(dir.path)
    await s.bed.start()
  }, 600_000)
  afterAll(async () => {
    await s?.[Symbol.asyncDispose]()
    await dir?.[Symbol.asyncDispose]()
  })
  const back = new Map([
    [create, remove],
    [stop, start],
    [start, stop],
    [remove, create],
  ])
  /** A phase may pass unseen, or the blow come when the action is over: then it is done anew, until it was hit. */
  async function struck(name: string, step: Step, b: Omit<Blow, 'after_ms'>): Promise<void> {
    for (let tries = 1; ; tries++) {
      const { hit, attempts, stuck } = await act(s, name, step, { after_ms: 0, ...b })
      // but for those that libvirt itself was in the way of
      const took = attempts - stuck
      expect(took).toBeLessThanOrEqual(b.disturbance === 'agent killed' ? 2 : 1)
      if (hit && (b.disturbance !== 'agent killed' || took === 2)) return
      expect(tries, `${step.action} was never struck in phase ${b.phase}`).toBeLessThan(10)
      if (back.has(step)) await act(s, name, back.get(step)!)
    }
  }
  const empty = async (): Promise<void> => {
    let left: string[] = []
    await until(
      'nothing is left',
      async () => {
        left = await nothingLeft(s)
        return left.length === 0
      },
      { also: () => left.join('\n') },
    )
  }

  test('whose agent is killed in every action is one VM, right each time, and leaves nothing', async () => {
    const killed = { disturbance: 'agent killed', for_ms: 0 } as const
    await struck('lucky', create, { ...killed, phase: 'start' })
    await struck('lucky', stop, { ...killed, phase: 'stop' })
    await struck('lucky', start, { ...killed, phase: 'start' })
    await struck('lucky', restart, { ...killed, phase: 'stop' })
    await struck('lucky', remove, { ...killed, phase: 'undefine' })
    await empty()
  }, 600_000)

  test('whose libvirtd is killed or frozen in the middle: the same attempt goes on', async () => {
    const killed = { disturbance: 'libvirtd killed', for_ms: 300 } as const
    const frozen = { disturbance: 'libvirtd frozen', for_ms: 1000 } as const
    await struck('steady', create, { ...killed, phase: 'start' })
    await struck('steady', restart, { ...frozen, phase: 'start' })
    await struck('steady', remove, { ...killed, phase: 'undefine' })
    await empty()
  }, 600_000)

  test('that libvirt refuses, with the agent killed while it is taken back: nothing is left', async () => {
    await struck('refused', REFUSED, { disturbance: 'agent killed', for_ms: 0, phase: 'roll-back' })
    await empty()
  }, 600_000)
})
