// One VM's life with the agent killed, libvirtd killed and libvirtd frozen in the middle of its actions. `npm run soak -- 'vm kills'` has every phase.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { isRoot } from '../support/libvirtd.ts'
import { type TempDir, tempDir } from '../support/temp.ts'
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
  /** @returns how many attempts it took, but for those that libvirt itself was in the way of */
  async function struck(name: string, step: Step, b: Omit<Blow, 'after_ms'>): Promise<number> {
    const { hit, attempts, stuck } = await act(s, name, step, { after_ms: 0, ...b })
    expect(hit, `${step.action} was seen in phase ${b.phase}`).toBe(true)
    return attempts - stuck
  }

  test('whose agent is killed in every action is one VM, right each time, and leaves nothing', async () => {
    const killed = { disturbance: 'agent killed', for_ms: 0 } as const
    expect(await struck('lucky', create, { ...killed, phase: 'start' })).toBe(2)
    await struck('lucky', stop, { ...killed, phase: 'stop' })
    await struck('lucky', start, { ...killed, phase: 'start' })
    await struck('lucky', restart, { ...killed, phase: 'stop' })
    await struck('lucky', remove, { ...killed, phase: 'undefine' })
    expect(await nothingLeft(s)).toEqual([])
  }, 600_000)

  test('whose libvirtd is killed or frozen in the middle: the same attempt goes on', async () => {
    const killed = { disturbance: 'libvirtd killed', for_ms: 300 } as const
    const frozen = { disturbance: 'libvirtd frozen', for_ms: 1000 } as const
    expect(await struck('steady', create, { ...killed, phase: 'start' })).toBe(1)
    expect(await struck('steady', restart, { ...frozen, phase: 'start' })).toBe(1)
    expect(await struck('steady', remove, { ...killed, phase: 'undefine' })).toBe(1)
    expect(await nothingLeft(s)).toEqual([])
  }, 600_000)

  test('that libvirt refuses, with the agent killed while it is taken back: nothing is left', async () => {
    expect(await struck('refused', REFUSED, { disturbance: 'agent killed', for_ms: 0, phase: 'roll-back' })).toBe(2)
    expect(await nothingLeft(s)).toEqual([])
  }, 600_000)
})
