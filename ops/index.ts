/** All ops. One module per op or family; importing a name pulls in only what it needs. */
export * from './binary.ts';
export * from './causal-conv1d.ts';
export * from './compare.ts';
export * from './norm.ts';
export * from './reduce.ts';
export * from './reshape.ts';
export * from './rope.ts';
export * from './scalar.ts';
export * from './unary.ts';
