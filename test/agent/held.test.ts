// Why nothing is begun, in the two forms in which it is said.
import { expect, test } from 'vitest'
import { type Agent, heldBecause, heldUntil } from '../../src/agent/state.ts'

const layout = { instance: 'i', output: '/o' }
const agent = (o: Partial<Agent>): Agent => ({ spool: { layout }, ...o }) as never

test('what holds the queue is a sentence, and the end of "waiting for …"', () => {
  expect(heldBecause(agent({}))).toBeUndefined()
  expect(heldUntil(agent({}))).toBeUndefined()
  const cases: [Partial<Agent>, RegExp, RegExp][] = [
    [{ paused: true }, /^the instance is paused \(resume/, /^the instance, which is paused \(resume/],
    [{ draining: true }, /^the agent is draining/, /^the next agent: /],
    [{ fenced: true }, /^the agent lost its lease/, /^its agent, which lost its lease/],
    [
      { diskFull: { free_bytes: 1 << 20, reserve_bytes: 2 << 20 } },
      /^the disk is full: 1 MiB free below/,
      /^space: 1 MiB free below \/o, 2 MiB must/,
    ],
  ]
  for (const [state, because, until] of cases) {
    expect(heldBecause(agent(state))).toMatch(because)
    expect(heldUntil(agent(state))).toMatch(until)
  }
})
