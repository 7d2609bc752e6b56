/** The agent: one process per instance that takes drops, runs jobs and publishes what they made (DESIGN section 5). */
export { runAgent } from './agent.ts'
